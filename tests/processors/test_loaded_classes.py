"""Weights of people's own classes, and diffusers' Custom Diffusion files, at the places that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import loaded
import pytest
import torch
from passthrough import one_thread, without_inductor
from sessions import compiled_clone

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")

import models
from onediff_pack.processors import find_sites
from onediff_pack.processors.loaded.unusable import Unusable

pytestmark = pytest.mark.usefixtures("host")

HEAD = "import torch\nfrom torch import nn\nfrom torch.nn.functional import scaled_dot_product_attention as sdpa\n\n\n"

GAIN = """
class Gain(nn.Module):
    def __init__(self, hidden_size):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(hidden_size))
        self.register_buffer("shift", torch.zeros(hidden_size))
        self.register_buffer("table", torch.zeros(3), persistent=False)

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = sdpa(q, k, v, attn_mask=attention_mask).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out)) * self.gain + self.shift
"""
PROMPTED = """
class Prompted(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, transformer_options=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = sdpa(q, k, v, attn_mask=attention_mask).transpose(1, 2).flatten(2)
        prompts = (transformer_options or {}).get("cond_or_uncond") or [0]
        parts = out.chunk(len(prompts))
        out = torch.cat([part * self.gain if which == 0 else part for part, which in zip(parts, prompts)])
        return attn.to_out[1](attn.to_out[0](out))
"""
KERNEL = """
class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, q, k, v, heads):
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return sdpa(q, k, v).transpose(1, 2).flatten(2) * self.scale
"""


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def model() -> Any:
    return models.unet_patcher()


@pytest.fixture
def load(tmp_path, monkeypatch) -> Callable[..., Any]:
    """A file with these tensors for a class in ``mine.py``."""
    from onediff_pack.host import offered_processors
    from onediff_pack.host.loading import at_sites
    from onediff_pack.processors.sources.custom import CustomProcessors

    custom = CustomProcessors(lambda: [tmp_path])
    for module in (offered_processors, at_sites):
        monkeypatch.setattr(module, "CUSTOM", custom)
    (tmp_path / "mine.py").write_text(HEAD + GAIN + PROMPTED + KERNEL)

    def load(tensors: dict[str, torch.Tensor], cls: str = "Gain", strength: float = 1.0) -> Any:
        metadata = {"onediff.format": "1", "onediff.processor": f"custom/mine:{cls}"}
        return loaded.opened(loaded.saved(tmp_path, tensors, cls, metadata)).with_strength(strength)

    return load


def sites_of(model: Any) -> list[Any]:
    return list(find_sites(model.model.diffusion_model))


def gains(model: Any, kind: str, gain: float = 2.0) -> dict[str, torch.Tensor]:
    """Weights for each site of a kind, whose widths differ."""
    found = {}
    for site in sites_of(model):
        if site.kind == kind:
            width = site.module.to_q.weight.shape[1]
            found |= {f"{site.path}:gain": torch.full((width,), gain), f"{site.path}:shift": torch.zeros(width)}
    return found


def spoiled(model: Any, kind: str, gain: float) -> torch.Tensor:
    """What the model gives where the results of its attention are multiplied."""
    sites = [site for site in sites_of(model) if site.kind == kind]
    hooks = [site.module.register_forward_hook(lambda module, args, result: result * gain) for site in sites]
    result = models.step(model)
    for hook in hooks:
        hook.remove()
    return result


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0, -1.0])
def test_each_site_has_its_weights_and_others_keep_theirs(model, load, strength):
    patched = loaded.put(model, load(gains(model, "cross"), strength=strength))
    expected = spoiled(model, "cross", 1 + strength)
    torch.testing.assert_close(models.step(patched), expected, atol=1e-5, rtol=1e-4)


def test_without_strength_the_picture_is_the_same(model, load):
    assert torch.equal(models.step(loaded.put(model, load(gains(model, "cross"), strength=0.0))), models.step(model))


def test_two_files_in_a_row_add_up(model, load):
    """The second one has sites of its own."""
    both = loaded.put(loaded.put(model, load(gains(model, "cross"))), load(gains(model, "self", 0.5)))
    halves = [site for site in sites_of(model) if site.kind == "self"]
    hooks = [site.module.register_forward_hook(lambda module, args, result: result * 0.5) for site in halves]
    expected = spoiled(model, "cross", 2.0)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(models.step(both), expected, atol=1e-5, rtol=1e-4)


def test_an_adapter_adds_in_full_to_a_processor_of_half_strength(tmp_path, model, load):
    """Whatever the strengths below, what is added is the same; here the processors change nothing."""
    torch.manual_seed(0)
    adapter = loaded.opened(loaded.saved(tmp_path, loaded.ip_adapter(model, loaded.standard(48)), "adapter"))
    half = loaded.put(model, load(gains(model, "cross", 1.0), strength=0.5))
    result = models.step(loaded.put(half, loaded.with_picture(adapter)))
    expected = models.step(loaded.put(model, loaded.with_picture(adapter)))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
    assert (expected - models.step(model)).abs().max() > 1e-3


@pytest.mark.parametrize("sites", ["all", "cross"])
def test_one_set_of_weights_for_all_sites(model, load, sites):
    """Of a class that is an attention function, with the chosen sites."""
    patched = loaded.put(model, load({"*:scale": torch.zeros(1)}, "Scaled"), sites)
    bare = model.clone()
    chosen = [s for s in sites_of(bare) if sites in ("all", s.kind)]
    hooks = [s.module.to_out.register_forward_pre_hook(lambda module, args: (args[0] * 0,)) for s in chosen]
    expected = models.step(bare)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(models.step(patched), expected, atol=1e-5, rtol=1e-4)


def test_other_weights_and_another_strength_compile_nothing(model, load):
    with without_inductor() as inductor:

        def compiled(file: Any) -> torch.Tensor:
            patched = loaded.put(model, file)
            clone, _, record = compiled_clone(patched, scope="attention")
            for _ in range(3):
                result = models.step(clone)
            assert record["compile"]["regions_uncompiled"] == []
            torch.testing.assert_close(result, models.step(patched), atol=1e-5, rtol=1e-4)
            return result

        first = compiled(load(gains(model, "cross")))
        before = inductor.graphs
        second = compiled(load(gains(model, "cross", 0.5)))
        assert inductor.graphs == before
        assert not torch.equal(first, second)
        compiled(load(gains(model, "cross"), strength=0.7))
        before = inductor.graphs
        compiled(load(gains(model, "cross"), strength=0.2))
        assert inductor.graphs == before


def test_a_class_may_tell_the_prompt_from_the_negative_one_and_is_compiled(model, load):
    patched = loaded.put(model, load({"*:gain": torch.full((1,), 3.0)}, "Prompted"), "cross")
    with without_inductor():
        clone, _, record = compiled_clone(patched, scope="attention")
        for order in ([0, 1], [1, 0], [0, 1]):
            for _ in range(3):
                result = models.step(clone, cond_or_uncond=order)
            assert record["compile"]["regions_uncompiled"] == []
            torch.testing.assert_close(result, models.step(patched, cond_or_uncond=order), atol=1e-5, rtol=1e-4)
            changed = (result - models.step(model)).abs().amax(dim=(1, 2, 3)) > 1e-4
            assert changed.tolist() == [which == 0 for which in order]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, at: t.pop(f"{at}:gain"), "lacks gain, which Gain has at"),
        (lambda t, at: t.update({f"{at}:gian": torch.ones(3)}), "has gian, which Gain has not"),
        (lambda t, at: t.update({f"{at}:gain": torch.ones(3)}), "has gain of [3] where Gain has [32]"),
        (lambda t, at: t.update({"input_blocks.99:gain": torch.ones(3)}), "which is no attention of this model"),
    ],
)
def test_weights_that_do_not_fit_are_said(model, load, change, said):
    tensors = gains(model, "cross")
    change(tensors, next(iter(tensors)).partition(":")[0])
    with pytest.raises(Unusable) as error:
        loaded.put(model, load(tensors))
    assert said in str(error.value)
    assert str(error.value).startswith("models/attention_processors/Gain.safetensors ")


def test_a_buffer_that_the_file_lacks_stays_as_the_class_makes_it(model, load):
    tensors = {name: one for name, one in gains(model, "cross").items() if name.endswith(":gain")}
    result = models.step(loaded.put(model, load(tensors)))
    torch.testing.assert_close(result, spoiled(model, "cross", 2.0), atol=1e-5, rtol=1e-4)


def test_a_class_that_is_not_there_gives_way_with_a_finding(model, load):
    from onediff_pack.host.loading.at_sites import loaded_at

    findings: list[Any] = []
    sites = sites_of(model)
    put = loaded_at("OneDiffPatchAttention", load({}, "Absent"), sites, model, findings)
    assert put.chosen.rejected["processor"] == "custom/mine:Absent"
    assert put.chosen.name == "sdpa"
    assert "is not among the classes" in findings[0].what


@pytest.mark.parametrize("trains", ["keys and values", "all projections"])
def test_custom_diffusion_gives_what_diffusers_gives(tmp_path, model, trains):
    diffusers = pytest.importorskip("diffusers.models.attention_processor", reason="diffusers is not installed")
    from onediff_pack.processors.loaded.unet_names import by_diffusers_name

    torch.manual_seed(0)
    named = by_diffusers_name(model.model.diffusion_model, sites_of(model))
    cross: dict[str, Any] = {name: site for name, site in named.items() if site.kind == "cross"}
    assert len({site.module.to_q.weight.shape for site in cross.values()}) > 1
    theirs: dict[str, Any] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, site in cross.items():
        inner, context = site.module.to_k.weight.shape
        one = diffusers.CustomDiffusionAttnProcessor2_0(True, trains != "keys and values", inner, context)
        theirs[site.path] = one
        tensors |= {f"{name}.processor.{key}": tensor for key, tensor in one.state_dict().items()}
    patched = loaded.put(model, loaded.opened(loaded.saved(tmp_path, tensors)))
    seen: dict[str, tuple] = {}
    for site in cross.values():
        site.module.register_forward_hook(
            lambda module, args, kwargs, result, path=site.path: seen.update({path: (args, kwargs, result)}),
            with_kwargs=True,
        )
    models.step(patched)
    for site in cross.values():
        args, kwargs, result = seen[site.path]
        inner, context = site.module.to_k.weight.shape
        attention = diffusers.Attention(inner, context, heads=site.module.heads, dim_head=inner // site.module.heads)
        attention.load_state_dict(site.module.state_dict())
        attention.set_processor(theirs[site.path])
        with torch.no_grad():
            expected = attention(args[0], encoder_hidden_states=kwargs.get("context", (*args, None)[1]))
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
