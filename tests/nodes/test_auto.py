"""Patch Attention Processors with ``auto``, and with kernels that this machine lacks: what the node puts on a model and
says."""

from __future__ import annotations

import gc
import importlib
import json
import weakref
from typing import Any

import pytest
import torch
from onediff_pack.patching.foreign import OVERRIDE
from onediff_pack.patching.wrappers import attached
from onediff_pack.processors.attention_patch import AttentionPatch

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
models = importlib.import_module("models")
pytestmark = pytest.mark.usefixtures("host")

INPUTS = {"processor": "auto", "sites": "all", "blocks": ""}


def patched(model: Any, **inputs: Any) -> tuple[Any, dict[str, Any]]:
    """The model that the node gives, and its record."""
    from comfy_api.latest import io
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention

    hidden = {"hidden_inputs": {io.Hidden.unique_id: "7"}}
    with torch.inference_mode():
        output = OneDiffPatchAttention.PREPARE_CLASS_CLONE(hidden).execute(model=model, **{**INPUTS, **inputs})
    return output.args[0], output.ui["onediff"][0]


@pytest.fixture
def sub_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI as it starts on a CPU without flags."""
    import comfy.ldm.flux.math
    import comfy.ldm.modules.attention as attention

    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(attention, name, attention.attention_sub_quad)
    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", attention.attention_sub_quad)


def test_it_says_what_it_waits_for_and_then_what_it_chose(sub_quadratic: None) -> None:
    model, record = patched(models.unet_patcher())
    assert record["summary"] == "auto: chooses in the first step"
    models.step(model, size=64, batch=1)
    patches = record["patches"]
    assert {site["processor"] for site in patches["sites"]} == {"sdpa"}
    assert record["summary"].startswith(f"patched {len(patches['sites'])} sites · auto: sdpa · attention ")
    assert patches["gain"]["before_ms"] > patches["gain"]["after_ms"] > 0
    rows = {one["processor"]: one["reason"] for one in patches["choices"][0]["candidates"]}
    assert rows["host"] == "slower" and rows["sdpa"] is None
    assert rows["sage"].startswith("device cpu is not among cuda")
    assert len(json.dumps(patches)) < 20_000


@pytest.mark.parametrize("processor, untimed", [("auto", None), ("sdpa", None), ("reference", True)])
def test_a_processor_that_nothing_times_beside_comfyuis_says_so(processor: str, untimed: bool | None) -> None:
    model, record = patched(models.unet_patcher(), processor=processor)
    models.step(model)
    assert record["patches"]["untimed"] is untimed
    assert untimed is None or record["patches"].get("gain") is None


@pytest.mark.parametrize("processor", ["auto", "sdpa"])
def test_the_model_goes_when_nobody_holds_it(processor: str) -> None:
    """Its weights take the place that the next checkpoint needs; Python's collector comes later."""
    patcher: Any = models.unet_patcher()
    gc.collect()
    gc.disable()
    try:
        model, record = patched(patcher, processor=processor)
        weights = weakref.ref(patcher.model.diffusion_model)
        del model, patcher
        assert weights() is None, record["summary"]
    finally:
        gc.enable()


def test_where_no_place_fits_it_does_not_speak_of_another_node() -> None:
    _, record = patched(models.flux_patcher(), sites="cross")
    assert "another node" not in record["summary"]


def test_where_comfyui_computes_with_pytorchs_attention_it_says_that_nothing_is_gained() -> None:
    """The tests' ComfyUI is started with --use-pytorch-cross-attention."""
    model, record = patched(models.flux_patcher())
    plain = models.step(models.flux_patcher())
    assert torch.equal(models.step(model), plain)
    assert record["summary"] == "auto: no gain, nothing was replaced"
    assert record["patches"]["gain"]["speedup"] == 1
    assert record["check"]["warnings"] == record["check"]["errors"] == 0


def test_an_override_of_another_node_stays_and_one_that_people_name_takes_its_place() -> None:
    def override(function: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return function(*args, **kwargs) * 0.5

    theirs = models.unet_patcher().clone()
    theirs.model_options["transformer_options"][OVERRIDE] = override
    halved, plain = models.step(theirs), models.step(models.unet_patcher())
    model, record = patched(theirs)
    assert record["summary"] == "auto: another node's attention stays"
    assert torch.equal(models.step(model), halved)
    assert record["patches"]["auto"]["state"] == "left"
    named, _ = patched(theirs, processor="sdpa")
    torch.testing.assert_close(models.step(named), plain, rtol=1e-4, atol=1e-5)


def test_a_processor_that_people_named_before_stays(sub_quadratic: None) -> None:
    first, _ = patched(models.unet_patcher(), processor="sliced", blocks="middle_block")
    model, record = patched(first)
    models.step(model, size=64, batch=1)
    assert not any(site["site"].startswith("middle_block") for site in record["patches"]["sites"])
    assert [type(patch).__name__ for patch in attached(model, AttentionPatch)] == ["MeasuredPatch", "AutoPatch"]


@pytest.mark.parametrize(
    ("name", "said", "fix"),
    [
        ("sage", "The package sageattention is not installed.", "Run “"),
        ("flash", "The package flash-attn is not installed.", "Run “"),
        ("xformers", "The package xformers is not installed.", "Run “"),
        ("sage3", "The package sageattn3 is not installed.", "Build sageattention3_blackwell from github.com"),
        ("kitchen-int8", "Comfy-kitchen ", "Update ComfyUI."),
    ],
)
def test_a_kernel_that_is_not_here_gives_way_to_sdpa_and_says_how_to_get_it(name: str, said: str, fix: str) -> None:
    model, record = patched(models.unet_patcher(), processor=name)
    (finding,) = record["check"]["findings"]
    assert finding["what"] == f"{name} is not used; sdpa is, so that the picture is finished"
    assert finding["why"].startswith(said) and finding["fix"].startswith(fix)
    assert record["summary"].startswith(f"{name} not used, sdpa is")
    plain = models.step(models.unet_patcher())
    torch.testing.assert_close(models.step(model), plain, rtol=1e-4, atol=1e-5)


def test_a_kernel_for_gpus_leaves_places_on_a_cpu_as_they_are() -> None:
    model, record = patched(models.unet_patcher(), processor="sdpa-cudnn")
    (finding,) = record["check"]["findings"]
    assert "device cpu is not among cuda" in finding["why"]
    assert finding["fix"] == "Run the model on cuda and load the model in bfloat16 or float16, or use sdpa."
    assert torch.equal(models.step(model), models.step(models.unet_patcher()))


@pytest.mark.parametrize("name", ["host/pytorch", "host/sub_quad", "host/split"])
@pytest.mark.parametrize("masked", [False, True])
def test_comfyuis_own_functions_compute_the_same_masks_included(name: str, masked: bool) -> None:
    """A bool mask is handed on as numbers to those that would take it for numbers."""
    from comfy.ldm.modules.attention import REGISTERED_ATTENTION_FUNCTIONS
    from onediff_pack.processors import get_processor
    from onediff_pack.processors.kernels.hosts import hosts_kernel

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, tokens, 4 * 8) for tokens in (6, 9, 9))
    mask = torch.rand(2, 6, 9) > 0.3 if masked else None
    kernel = hosts_kernel(name, REGISTERED_ATTENTION_FUNCTIONS)
    assert kernel is not None
    torch.testing.assert_close(kernel(q, k, v, 4, mask), get_processor("sdpa")(q, k, v, 4, mask))
    model, record = patched(models.unet_patcher(), processor=name)
    torch.testing.assert_close(models.step(model), models.step(models.unet_patcher()), rtol=1e-4, atol=1e-5)
    assert record["check"]["findings"] == []
    assert record["patches"]["sites"][0]["processor"] == name


@pytest.mark.parametrize("quality", ["exact", "fast", "best", 7, None])
def test_any_quality_runs(quality: Any) -> None:
    _, record = patched(models.unet_patcher(), quality=quality)
    assert record["state"] == "patched"
    assert record["check"]["warnings"] == (quality not in ("exact", "fast"))
    assert record["patches"]["auto"]["quality"] == (quality if quality in ("exact", "fast") else "exact")
