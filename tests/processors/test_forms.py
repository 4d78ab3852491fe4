"""In which form a class is called, where its names do not tell, and what its ``__init__`` is given."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from onediff_pack.checks import check_processor
from onediff_pack.patching.forwards import swapped_attributes, swapped_forwards
from onediff_pack.processors import Site, adapt, way_of
from onediff_pack.processors.attention_patch import not_patchable_reason, site_forward
from onediff_pack.processors.authored.instances import AT_SITE, Instances
from onediff_pack.processors.authored.make import CannotLoad
from onediff_pack.processors.authored.recipe import Recipe, recipe_of
from onediff_pack.processors.built_in.sdpa import SDPAProcessor
from onediff_pack.processors.sources.custom import PRIVATE, CustomProcessors
from torch import nn

SDPA = SDPAProcessor().eval()


class Attention(nn.Module):
    """As ComfyUI's CrossAttention is made and called; these tests need no ComfyUI."""

    def __init__(self, width=16, context=16, heads=2):
        super().__init__()
        self.heads, self.dim_head = heads, width // heads
        self.to_q, self.to_k, self.to_v = nn.Linear(width, width), nn.Linear(context, width), nn.Linear(context, width)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x, context=None, value=None, mask=None, transformer_options=None):
        context = x if context is None else context
        value = context if value is None else value
        return self.to_out(SDPA(self.to_q(x), self.to_k(context), self.to_v(value), self.heads, mask))


def site(kind="cross", width=16, context=24):
    torch.manual_seed(0)
    module = Attention(width, context if kind == "cross" else width).eval().requires_grad_(False)
    return Site(f"input_blocks.1.1.attn{1 + (kind == 'cross')}", module, kind, True)


def attend(attn, x, context=None, mask=None):
    context = x if context is None else context
    return attn.to_out(SDPA(attn.to_q(x), attn.to_k(context), attn.to_v(context), attn.heads, mask))


class Named(nn.Module):
    def forward(self, attn, hidden_states, context=None, mask=None):
        return attend(attn, hidden_states, context, mask)


class NamedKernel(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        return SDPA(q, k, v, heads, mask)


class Hands(Named):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class HandsPlacesOn(Named):
    def forward(self, *args):
        return super().forward(*args)


class HandsKernelOn(NamedKernel):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class HandsTheRestOn(Named):
    def forward(self, attn, *args, **kwargs):
        return super().forward(attn, *args, **kwargs)


class Mixin:
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)  # type: ignore[misc]


class Mixed(Mixin, Named):
    pass


class Called:
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)


class CalledOn(Called, nn.Module):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


def wrapped(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def unnamed(function):
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


class Wrapped(nn.Module):
    @wrapped
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)


class NoGrad(nn.Module):
    @torch.no_grad()
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)


class Disabled(nn.Module):
    @torch.compiler.disable
    def forward(self, q, k, v, heads, mask=None):
        return SDPA(q, k, v, heads, mask)


class Partial(nn.Module):
    def _run(self, mode, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        assert mode == "soft"
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)

    def __init__(self):
        super().__init__()
        self.forward = functools.partial(self._run, "soft")


class PartialMethod(nn.Module):
    def _run(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, mode=None):
        assert mode == "soft"
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)

    forward = functools.partialmethod(_run, mode="soft")


class OtherName(nn.Module):
    def forward(self, layer, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return attend(layer, hidden_states, encoder_hidden_states, attention_mask)


class FoundByCalling(nn.Module):
    @unnamed
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)


class KernelFoundByCalling(nn.Module):
    def forward(self, *args, **kwargs):
        return SDPA(*args, **kwargs)


class OwnNames(nn.Module):
    def forward(self, queries, keys, values, number, **kwargs):
        return SDPA(queries, keys, values, number, **kwargs)


class StandIn(nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, hidden_states, *args, **kwargs):
        return attend(self.attn, hidden_states, kwargs.get("context"), kwargs.get("mask"))


class DiffusersStandIn(StandIn):
    def forward(self, hidden_states, encoder_hidden_states=None, attention_mask=None, **cross_attention_kwargs):
        return attend(self.attn, hidden_states, encoder_hidden_states, attention_mask)


class HostStandIn(StandIn):
    def forward(self, x, context=None, value=None, mask=None, transformer_options={}):  # noqa: B006
        assert transformer_options["sigmas"] == 1
        return attend(self.attn, x, context, mask)


MODULES = [
    Named, Hands, HandsPlacesOn, HandsTheRestOn, Mixed, CalledOn, Wrapped, NoGrad, Partial, PartialMethod, OtherName,
    FoundByCalling,
]  # fmt: skip
KERNELS = [NamedKernel, HandsKernelOn, Disabled, KernelFoundByCalling, OwnNames]
STAND_INS = [StandIn, DiffusersStandIn, HostStandIn]


@pytest.mark.parametrize("cls", [*MODULES, *KERNELS, *STAND_INS], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("masked", [False, True])
def test_every_way_of_writing_one_computes_the_same_as_the_site(cls, kind, masked):
    place = site(kind)
    processor = adapt(cls(place.module) if cls in STAND_INS else cls(), place)
    x, context = torch.randn(2, 5, 16), torch.randn(2, 7, 24) if kind == "cross" else None
    mask = torch.rand(5, 5 if context is None else 7) > 0.3 if masked else None
    mask = mask if mask is None else mask.logical_or(torch.eye(*mask.shape, dtype=torch.bool))
    options = {"sigmas": 1}
    expected = place.module(x, context, mask=mask)
    if cls in KERNELS:
        q, k, v = (
            place.module.to_q(x),
            *(p(x if context is None else context) for p in (place.module.to_k, place.module.to_v)),
        )
        result = place.module.to_out(processor(q, k, v, 2, mask))
    else:
        result = site_forward(place, processor)(x, context, mask=mask, transformer_options=options)
    torch.testing.assert_close(result, expected)


def test_what_can_be_called_both_ways_is_given_the_module_and_that_is_said():
    class Either(nn.Module):
        def forward(self, *args, **kwargs):
            return args[1] * 2.0

    way = way_of(Either(), site())
    assert way is not None and way.form == "module"
    notes = [f for f in check_processor(Either(), site("self"), thorough=False) if f.rule == "callable-both-ways"]
    assert [note.severity for note in notes] == ["note"]


def test_names_in_an_order_that_no_form_has_are_not_tried():
    class KeysFirst(nn.Module):
        def forward(self, k, q, v, heads):
            return SDPA(q, k, v, heads)

    assert way_of(KeysFirst(), site()) is None


def test_a_call_that_was_tried_leaves_nothing_behind():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.seen = 0, []

        def forward(self, *args, **kwargs):
            self.calls += 1
            self.seen.append(args[0])
            return SDPA(*args, **kwargs)

    processor = Counts()
    numbers = torch.get_rng_state()
    adapt(processor, site())
    assert (processor.calls, processor.seen) == (0, [])
    assert torch.equal(torch.get_rng_state(), numbers)


FILE = """
import copy

from torch import nn


class Sized(nn.Module):
    def __init__(self, hidden_size, cross_attention_dim=None, num_heads=None, scale=1.0):
        super().__init__()
        self.own = (hidden_size, cross_attention_dim, num_heads, scale)
        self.to_k_own = nn.Linear(cross_attention_dim or hidden_size, hidden_size)

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return hidden_states


class Unknown(nn.Module):
    def __init__(self, hidden_size, num_tokens, rank):
        super().__init__()

    def forward(self, attn, hidden_states):
        return hidden_states


class Takes(nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, hidden_states, *args, **kwargs):
        return self.attn.to_out(hidden_states)


class Spoils(Takes):
    def __init__(self, attn):
        super().__init__(attn)
        attn.to_q = nn.Identity()


class Harmless(Takes):
    def __init__(self, attn):
        super().__init__(attn)
        self.eval().requires_grad_(False)
        copy.deepcopy(attn)
        self.attn.to_q = attn.to_q
"""


@pytest.fixture
def custom(tmp_path):
    folder = tmp_path / "models" / "attention_processors"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(FILE)
    yield CustomProcessors(lambda: [folder])
    for name in [name for name in sys.modules if name.startswith(PRIVATE)]:
        del sys.modules[name]


@pytest.mark.parametrize(("kind", "context"), [("self", None), ("cross", 24)])
def test_a_class_is_given_the_sizes_of_its_site_and_keeps_its_own_defaults(custom, kind, context):
    processor = custom.load("custom/mine:Sized", torch.device("cpu"), torch.float16, site=site(kind))
    assert processor.inner.own == (16, context, 2, 1.0)
    assert processor.inner.to_k_own.weight.dtype == torch.float16
    again: Any = recipe_of(processor).instance(site(kind))
    assert again is not processor
    assert torch.equal(again.inner.to_k_own.weight, processor.inner.to_k_own.weight), "drawn alike each time"


def test_what_nobody_knows_is_named_with_how_to_give_a_default(custom):
    with pytest.raises(CannotLoad) as error:
        custom.load("custom/mine:Unknown", site=site())
    assert "its __init__ needs num_tokens, rank" in error.value.what
    assert "hidden_size" in error.value.why
    assert "num_tokens=…, rank=…" in error.value.fix


def test_where_attention_is_computed_in_another_way_that_is_the_reason(custom):
    block: Any = nn.Module()
    block.num_heads = 2
    kernel_site = Site("double_blocks.0", block, "self", False)
    with pytest.raises(CannotLoad) as error:
        custom.load("custom/mine:Takes", site=kernel_site)
    assert "its __init__ needs attn" in error.value.what
    assert "computes attention in another way" in error.value.why
    stand_in = custom.load("custom/mine:Takes", site=site())
    assert "to_q, to_k, to_v and to_out" in (not_patchable_reason(kernel_site, stand_in) or "")


def test_a_stand_in_holds_the_models_own_layers_and_changes_none(custom):
    place = site()
    before = {name: (id(p), p.dtype, p.requires_grad) for name, p in place.module.named_parameters()}
    processor = custom.load("custom/mine:Takes", torch.device("cpu"), torch.float16, site=place)
    assert processor.inner.attn.to_q is place.module.to_q
    assert {name: (id(p), p.dtype, p.requires_grad) for name, p in place.module.named_parameters()} == before
    with pytest.raises(CannotLoad) as error:
        custom.load("custom/mine:Spoils", site=place)
    assert "changes the attention module" in error.value.what
    assert isinstance(place.module.to_q, nn.Linear)


CHANGES = {
    "a hook": "attn.to_q.register_forward_pre_hook(lambda module, given: (given[0] * 0,))",
    "a hook of all": "attn.to_out.register_forward_hook(lambda module, given, result: result * 0)",
    "a list of its own": "attn.lists[0].append(7)",
    "the mode": "attn.train()",
    "the dtype": "attn.half()",
    "a weight": "nn.init.zeros_(attn.to_q.weight)",
    "the class": "type(attn).forward = lambda self, *args, **kwargs: args[0]",
    "another class": "attn.__class__ = type('Other', (type(attn),), {'forward': lambda self, x, *args, **kwargs: x})",
    "and an error": "attn.to_q.register_forward_pre_hook(lambda *given: 1 / 0); attn.train(); attn.none",
}


@pytest.mark.parametrize("does", CHANGES.values(), ids=CHANGES)
def test_whatever_init_changes_of_the_model_is_said_and_put_back(custom, tmp_path, does):
    (tmp_path / "models" / "attention_processors" / "mine.py").write_text(
        FILE.replace("attn.to_q = nn.Identity()", does)
    )
    place = site()
    place.module.eval()
    place.module.lists = [[1], {}]
    x, context = torch.randn(2, 5, 16), torch.randn(2, 7, 24)
    before = place.module(x, context)
    with pytest.raises(CannotLoad) as error:
        custom.load("custom/mine:Spoils", site=place)
    if "attn.none" not in does:
        assert "changes the attention module that it is given" in error.value.what
    assert torch.equal(place.module(x, context), before)
    assert not place.module.training and place.module.lists == [[1], {}]
    assert type(place.module) is Attention and place.module.to_q.weight.dtype is torch.float32


def test_what_only_reaches_the_models_layers_along_with_its_own_is_put_back_and_not_said(custom):
    place = site()
    place.module.train().requires_grad_(True)
    assert custom.load("custom/mine:Harmless", site=place).inner.attn.to_q is place.module.to_q
    assert place.module.training and place.module.to_q.weight.requires_grad


def test_equal_sites_with_an_instance_each_run_one_graph():
    sites = [site("self"), site("self")]
    sites[1].module.to_q.weight.data.mul_(2)
    recipe = Recipe(StandIn)
    first: Any = recipe.instance(sites[0])
    patch = Instances(first, [replace(one, path=f"blocks.{n}") for n, one in enumerate(sites)])
    compiled = []

    def count(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    def block(module, x):
        return module(x)

    run = torch.compile(block, backend=count, fullgraph=True)
    x = torch.randn(2, 5, 16)
    expected = [one.module(x) for one in sites]
    with swapped_attributes(AT_SITE, patch.attributes()), torch.no_grad():
        for place, right in zip(sites, expected, strict=True):
            forward = site_forward(place, patch.checked, None, patch.computes(place))
            with swapped_forwards([(place.module, forward)]):
                torch.testing.assert_close(run(place.module, x), right)
    assert len(compiled) == 1
    assert all(AT_SITE not in one.module.__dict__ for one in sites)
