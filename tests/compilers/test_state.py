"""Processors that keep something between calls, and those with an instance a site: the same picture each time, patched
and compiled, and each called once a model call."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from onediff_pack.checks.attached import check_attached
from onediff_pack.checks.mounted import mount
from onediff_pack.checks.probing.keeping import keeping
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import find_sites
from onediff_pack.processors.attention_patch import AttentionPatch
from onediff_pack.processors.authored.instances import at_site
from onediff_pack.processors.authored.recipe import keeps_state, recipe_of
from onediff_pack.processors.sources.custom import PRIVATE, CustomProcessors
from sessions import CPU, compiled_clone

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")

FILE = """
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as sdpa

CALLS = 0
LAST = {}


def attend(attn, x, context):
    context = x if context is None else context
    q, k, v = attn.to_q(x), attn.to_k(context), attn.to_v(context)
    q, k, v = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (q, k, v))
    return attn.to_out(sdpa(q, k, v).transpose(1, 2).flatten(2))


class OnInstance(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        self.calls += 1
        return attend(attn, hidden_states, encoder_hidden_states) * (1 + self.calls / 50)


class InBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        self.calls += 1
        return attend(attn, hidden_states, encoder_hidden_states) * (1 + self.calls / 50)


class OnClass(nn.Module):
    calls = 0

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        type(self).calls += 1
        return attend(attn, hidden_states, encoder_hidden_states) * (1 + self.calls / 50)


class InGlobal(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        global CALLS
        CALLS += 1
        return attend(attn, hidden_states, encoder_hidden_states) * (1 + CALLS / 50)


def counted(function, seen=[]):
    def inner(self, attn, hidden_states, encoder_hidden_states=None):
        seen.append(1)
        return function(self, attn, hidden_states, encoder_hidden_states) * (1 + len(seen) / 50)
    return inner


class InClosure(nn.Module):
    @counted
    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        return attend(attn, hidden_states, encoder_hidden_states)


class Bank(nn.Module):
    # what a layer gave in the last step is mixed in
    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        out = attend(attn, hidden_states, encoder_hidden_states)
        before = LAST.get(out.shape)
        LAST[out.shape] = out
        return out if before is None else 0.8 * out + 0.2 * before


class First(nn.Module):
    # written once a layer's width, and read ever after
    def __init__(self):
        super().__init__()
        self.first = {}

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        out = attend(attn, hidden_states, encoder_hidden_states)
        return out + 0.1 * self.first.setdefault(out.shape, out)


class Drawn(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        out = attend(attn, hidden_states, encoder_hidden_states)
        return out + 0.01 * torch.randn(out.shape, generator=self.generator)


class ASite(nn.Module):
    def __init__(self, hidden_size, cross_attention_dim=None):
        super().__init__()
        self.calls, self.factor = 0, hidden_size / 40 + (0.1 if cross_attention_dim else 0)

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        self.calls += 1
        return attend(attn, hidden_states, encoder_hidden_states) * self.factor * (1 + self.calls / 9)


class Plain(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        return attend(attn, hidden_states, encoder_hidden_states) * 1.1


class Table(nn.Module):
    # made once, as long as it is needed
    def __init__(self):
        super().__init__()
        self.table = None

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        if self.table is None:
            self.table = torch.linspace(1, 2, 7)
        return attend(attn, hidden_states, encoder_hidden_states) * self.table[3]


class Width(nn.Module):
    def __init__(self, hidden_size):
        super().__init__()
        self.factor = hidden_size / 40

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        return attend(attn, hidden_states, encoder_hidden_states) * self.factor


class StandIn(nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.heads, self.to_out = attn.heads, attn.to_out
        self.to_q, self.to_k, self.to_v = attn.to_q, attn.to_k, attn.to_v

    def forward(self, hidden_states, *args, **kwargs):
        return attend(self, hidden_states, kwargs.get("context")) * 1.1


class HoldsWeight(nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.attn, self.weight = attn, attn.to_q.weight

    def forward(self, x, context=None, value=None, mask=None, transformer_options={}):
        return attend(self.attn, x, context) * (1 + self.weight.mean())
"""

KEEPING = ["OnInstance", "InBuffer", "OnClass", "InGlobal", "InClosure", "Bank", "First", "Drawn", "ASite"]
OTHERS = ["Plain", "Table", "Width", "StandIn"]


@pytest.fixture
def custom(tmp_path):
    folder = tmp_path / "models" / "attention_processors"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(FILE)
    yield CustomProcessors(lambda: [folder])
    for name in [name for name in sys.modules if name.startswith(PRIVATE)]:
        del sys.modules[name]


@pytest.fixture
def patcher(backend):
    import models

    return models.unet_patcher()


def chosen(custom, patcher, name):
    """A class as the node loads it and looks for what it keeps; the processor and its sites."""
    sites = find_sites(patcher.model.diffusion_model)
    processor = custom.load(f"custom/mine:{name}", CPU, torch.float32, site=sites[0])
    for site in {site.kind: site for site in reversed(sites)}.values():
        instance: Any = at_site(processor, site)
        mount(instance, site, torch.float32, CPU).evidence(keeping)
    return processor, sites


def patched(custom, patcher, name):
    processor, sites = chosen(custom, patcher, name)
    clone = patcher.clone()
    attach(clone, AttentionPatch(sites, processor, lambda options: None))
    return clone


def sample(patcher, size=8, steps=4, cfg=3.0):
    """A sampling with CFG as ComfyUI's nodes make it."""
    import comfy.samplers

    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 4, size, size, generator=generator)
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(*([[torch.randn(1, 7, 48, generator=generator), {}]] for _ in range(2)))
    guider.set_cfg(cfg)
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.linspace(1, 0, steps + 1)
    with torch.inference_mode():
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True)


@pytest.mark.parametrize("name", [*KEEPING, *OTHERS])
def test_a_picture_is_the_same_again_after_one_of_another_size(custom, patcher, name):
    model = patched(custom, patcher, name)
    first = sample(model)
    assert not torch.equal(first, sample(patcher)), "it has an effect"
    sample(model, size=12)
    assert torch.equal(sample(model), first)


# The check that a session makes in its first step calls a processor many times, and Dynamo captures it: the slow part.
@pytest.mark.parametrize(
    "name",
    [
        *("OnInstance", "Bank", "Table", "StandIn"),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("OnClass", "ASite")),  # counts its calls too
    ],
)
def test_compiled_it_makes_the_picture_that_it_makes_uncompiled(custom, patcher, backend, name):
    model = patched(custom, patcher, name)
    first, other = sample(model), sample(model, size=12)
    compiled, session, _ = compiled_clone(model)
    for _ in range(2):
        assert torch.equal(sample(compiled), first)
        assert torch.equal(sample(compiled, size=12), other)
    keeps = name in KEEPING
    with_sites = [block for block in session.blocks if block.sites]
    assert with_sites
    for block in with_sites:
        assert (block.uncompiled_because is not None) == keeps, block.uncompiled_because
    assert backend.ran, "other blocks run compiled"
    assert ("BasicTransformerBlock" in backend.ran) != keeps


@pytest.mark.parametrize("name", ["Plain", "Width"])
def test_a_third_sampling_with_a_processor_that_keeps_nothing_compiles_nothing(custom, patcher, backend, name):
    model, *_ = compiled_clone(patched(custom, patcher, name))
    sample(model)
    sample(model)
    before = list(backend.compiled)
    sample(model)
    assert backend.compiled == before


def test_equal_blocks_share_a_graph_where_each_site_has_an_instance(custom, patcher, backend):
    model, session, _ = compiled_clone(patched(custom, patcher, "StandIn"))
    sample(model)
    alone, plain, _ = compiled_clone(patched(custom, patcher, "Plain"))
    sample(alone)
    graphs = [{graph for b in s.blocks for graph in b.graphs.values()} for s in (session, plain)]
    assert len(graphs[0]) == len(graphs[1])


def test_the_step_that_is_run_again_after_a_failure_begins_with_what_was_kept_before(custom, patcher, backend):
    model = patched(custom, patcher, "OnInstance")
    expected = sample(model, steps=6)
    compiled, session, _ = compiled_clone(model)
    calls = 0

    def fail_late(name, result):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise RuntimeError("the backend gave up")
        return result

    backend.change = fail_late
    assert torch.equal(sample(compiled, steps=6), expected)
    assert calls >= 12
    assert any("gave up" in (block.reason or "") for block in session.blocks)


def test_what_only_later_calls_show_is_seen_while_it_samples(custom, patcher, backend, tmp_path):
    late = """

class Late(nn.Module):
    # keeps nothing of the few tokens of a check
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        if hidden_states.shape[1] >= 36:
            self.calls += 1
        return attend(attn, hidden_states, encoder_hidden_states) * (1 + self.calls / 50)
"""
    file = tmp_path / "models" / "attention_processors" / "mine.py"
    file.write_text(FILE + late)
    model = patched(custom, patcher, "Late")
    first = sample(model, size=16)
    assert torch.equal(sample(model, size=16), first)
    compiled, *_ = compiled_clone(model)
    assert torch.equal(sample(compiled, size=16), first)


def test_a_stand_in_leaves_the_model_as_it_is_and_follows_its_weights(custom, patcher, backend):
    for name in ("StandIn", "HoldsWeight"):
        weights = patcher.model.diffusion_model.state_dict(keep_vars=True)
        before = {key: id(value) for key, value in weights.items()}
        model = patched(custom, patcher, name)
        plain = sample(model)
        after = patcher.model.diffusion_model.state_dict(keep_vars=True)
        assert {key: id(value) for key, value in after.items()} == before
        key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
        with_lora = model.clone()
        with_lora.add_patches({key: (torch.full((64, 64), 0.5),)}, 1.0)
        changed = sample(with_lora)
        assert not torch.equal(changed, plain)
        lora_first = patcher.clone()
        lora_first.add_patches({key: (torch.full((64, 64), 0.5),)}, 1.0)
        assert torch.equal(sample(patched(custom, lora_first, name)), changed)
        assert torch.equal(sample(model), plain)


def test_memory_of_a_bank_is_let_go_at_the_end_of_a_sampling(custom, patcher, backend):
    processor, sites = chosen(custom, patcher, "Bank")
    clone = patcher.clone()
    patch = AttentionPatch(sites, processor, lambda options: None)
    attach(clone, patch)
    sample(clone)
    assert keeps_state(processor)
    namespace = sys.modules[recipe_of(processor).cls.__module__].__dict__
    assert namespace["LAST"] == {}


def test_an_edited_file_is_captured_with_its_own_globals(tmp_path, patcher):
    """Dynamo finds globals by the name of the module, and keeps the first one of a name."""
    text = """
import torch
from torch import nn

GAIN = {gain}
{helper}
class Mine(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        mask = mask[:, None] if mask is not None and mask.ndim == 3 else mask
        out = torch.nn.functional.scaled_dot_product_attention({q}, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2) * GAIN
"""
    folder = tmp_path / "models" / "attention_processors"
    folder.mkdir(parents=True)
    own = CustomProcessors(lambda: [folder])
    helper = "def twice(x):\n    return x * 2\n"
    sites = find_sites(patcher.model.diffusion_model)[:1]
    for gain, more, q in ((1.0, "", "q"), (3.0, helper, "twice(q)"), (1.0, "", "q")):
        (folder / "edited.py").write_text(text.format(gain=gain, helper=more, q=q))
        processor: Any = own.load("custom/edited:Mine", CPU, torch.float32, site=sites[0])
        assert check_attached([(sites[0], processor)], torch.float32, CPU) == []
    assert len([name for name in sys.modules if name.startswith(f"{PRIVATE}.edited")]) == 1
