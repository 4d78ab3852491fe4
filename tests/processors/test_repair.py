"""Classes whose ``__call__`` does the work, and what OneDiff makes of them (siliconflow/onediff#873)."""

from __future__ import annotations

import inspect

import pytest
import torch
from onediff_pack.checks import check_processor
from onediff_pack.patching.explicit_forward import forwards_given, is_repaired, needs_repair, repaired, with_forward
from onediff_pack.processors import adapt, written
from torch import nn


class Called(nn.Module):
    """A processor as many custom ones are written."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((1,), 2.0))

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        out = attn.batch_to_head_dim(attn.get_attention_scores(q, k, mask) @ v)
        return attn.to_out[1](attn.to_out[0](out)) * self.gain


class Plain:
    """The same without torch, as diffusers' own are."""

    def __init__(self, gain: float = 2.0):
        self.gain = gain

    __call__ = Called.__call__


class Bare(nn.Module):
    pass


class Proper(nn.Module):
    def forward(self, x):
        return x


class CallsSuper(nn.Module):
    def __call__(self, x):
        return super().__call__(x + 1)

    def forward(self, x):
        return x * 2


class UNet(nn.Module):
    """What OneDiff is asked to compile: a module with an attention that asks its processor."""

    def __init__(self, attention: nn.Module, processor: nn.Module):
        super().__init__()
        self.attention = attention
        self.processor = processor

    def forward(self, x):
        from onediff_pack.processors.authored.attn_view import AttnView

        return self.processor(AttnView(self.attention, x.dtype), x)


@pytest.fixture
def attention(host):
    from comfy.ldm.modules.attention import CrossAttention

    torch.manual_seed(0)
    return CrossAttention(32, heads=2, dim_head=16, operations=nn).eval().requires_grad_(False)


@pytest.fixture
def through_forward(monkeypatch):
    """A backend for OneDiff that runs every module's ``forward``, as its OneFlow graphs do (oneflow/nn/graph/proxy.py),
    instead of calling the module."""
    onediff = pytest.importorskip("onediff.infer_compiler")
    from onediff.infer_compiler.backends import registry
    from onediff.infer_compiler.backends.deployable_module import DeployableModule

    class Deployable(DeployableModule):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args):
            classes = [(module, type(module)) for module in self.module.modules()]
            for module, cls in classes:
                module.__class__ = type(cls.__name__, (cls,), {"__call__": lambda self, *args: self.forward(*args)})
            try:
                return self.module(*args)
            finally:
                for module, cls in classes:
                    module.__class__ = cls

    monkeypatch.setattr(registry, "_BACKENDS", dict(registry._BACKENDS))
    registry.register_backend("through_forward")(lambda module, *, options=None: Deployable(module))
    return lambda module: onediff.compile(module, backend="through_forward")


@pytest.mark.parametrize("processor", [Called, Bare])
def test_onediff_fails_on_such_a_processor_as_users_saw_it(attention, through_forward, processor):
    """A traceback that ends in nn.Module's own forward, which says nothing of what to do."""
    with pytest.raises(NotImplementedError, match=r'missing the required "forward" function') as failure:
        through_forward(UNet(attention, processor()))(torch.randn(2, 9, 32))
    assert failure.traceback[-1].name == "_forward_unimplemented"


@pytest.mark.parametrize("cls", [Called, Plain])
def test_repaired_it_runs_through_onediff_and_computes_the_same(attention, through_forward, cls):
    x = torch.randn(2, 9, 32)
    mounted = UNet(attention, with_forward(cls)())
    torch.testing.assert_close(through_forward(mounted)(x), 2 * attention(x))
    torch.testing.assert_close(mounted(x), 2 * attention(x))


@pytest.mark.parametrize("cls", [Called, Plain])
def test_the_compiled_graph_contains_it(attention, cls):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return graph

    x = torch.randn(2, 9, 32)
    compiled = torch.compile(UNet(attention, adapt(with_forward(cls)())), backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), 2 * attention(x))
    assert len(graphs) == 1
    assert "softmax" in graphs[0]


@pytest.mark.parametrize("cls", [Called, Plain])
def test_the_forward_is_the_authors_own_method(cls):
    better = with_forward(cls)
    assert issubclass(better, nn.Module) and issubclass(better, cls)
    assert is_repaired(better) and not needs_repair(better)
    assert inspect.signature(better.forward) == inspect.signature(cls.__call__)
    assert (better.__name__, better.__qualname__, better.__module__) == (cls.__name__, cls.__qualname__, cls.__module__)
    assert inspect.getsourcelines(better) == inspect.getsourcelines(cls)
    assert with_forward(cls) is better, "one class, so that equal blocks share a graph"


def test_what_has_a_forward_or_no_way_to_be_called_is_left_alone():
    assert with_forward(Proper) is Proper
    assert with_forward(CallsSuper) is CallsSuper
    assert with_forward(Bare) is Bare
    module = Proper()
    assert repaired(module) is module


def test_a_class_that_has_no_hash_is_repaired_once():
    class Compares(type):
        def __eq__(cls, other):
            raise SystemExit

    class Odd(Called, metaclass=Compares):
        pass

    assert with_forward(Odd) is with_forward(Odd)
    assert vars(with_forward(Odd))["repaired_from"] is Odd


def test_a_repaired_module_shares_weights_and_hooks_take_effect():
    module = Called()
    better = repaired(module)
    assert better.gain is module.gain
    seen = []
    better.register_forward_hook(lambda *args: seen.append(1))

    class Attn:
        def __getattr__(self, name):
            return (lambda x, *_: x) if not name.startswith("to_out") else [lambda x: x, lambda x: x]

        def get_attention_scores(self, q, k, mask):
            return torch.eye(4)

    better(Attn(), torch.ones(4, 4))
    assert seen == [1]


def test_modules_get_a_forward_for_a_while_and_their_class_back():
    module, proper = Called(), Proper()
    with pytest.raises(KeyError), forwards_given([module, proper]):
        assert is_repaired(type(module))
        assert type(proper) is Proper
        raise KeyError
    assert type(module) is Called


def test_the_check_notes_it_and_goes_on(attention):
    from onediff_pack.processors import Site

    site = Site("blocks.0.attn1", attention, "self", True)
    for processor in (Called(), with_forward(Plain)(), adapt(Called())):
        findings = check_processor(processor.requires_grad_(False), site)
        assert [(f.severity, f.rule) for f in findings] == [("note", "call-instead-of-forward")], findings
        assert findings[0].cls in ("Called", "Plain")
        assert findings[0].where.partition(":")[0].endswith("test_repair.py")
    assert type(written(adapt(Called()))).__qualname__ == "Called"
