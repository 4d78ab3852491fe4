"""What the nodes' own code says before anything samples, on models of the host's own classes."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from onediff_pack.proving.proof import Proof
from torch import nn

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
models = importlib.import_module("models")

pytestmark = pytest.mark.usefixtures("host")


def execute(node, **inputs):
    """Runs a node as ComfyUI does; gives its outputs and its record."""
    from comfy_api.latest import io

    hidden = {"hidden_inputs": {io.Hidden.unique_id: "7"}}
    with torch.inference_mode():
        output = node.PREPARE_CLASS_CLONE(hidden).execute(**inputs)
    return output.args, output.ui["onediff"][0]


@pytest.fixture
def compile_node(monkeypatch):
    from onediff_pack.nodes import compile as node
    from sessions import known

    stands_in = Proof(True, "stands in.", 0.0)
    monkeypatch.setattr(node, "PROOFS", known(inductor=stands_in, oneflow=stands_in, nexfort=stands_in))
    settings = {
        "backend": "auto",
        "scope": "blocks",
        "effort": "fast start",
        "if_unfit": "run uncompiled",
        "keep_faster": True,
    }
    return lambda model, **inputs: execute(node.OneDiffCompile, model=model, **{**settings, **inputs})[1]


@pytest.fixture
def check_node():
    from onediff_pack.nodes.forward_check import OneDiffForwardCheck

    return lambda model: execute(OneDiffForwardCheck, model=model, on_problem="report")


class NoForward(nn.Module):
    """What a model of another pack may hold."""


def test_settings_that_fit_are_not_remarked_upon(compile_node):
    assert compile_node(models.unet_patcher())["check"]["findings"] == []


def test_a_backend_for_other_devices_is_named(compile_node):
    found = compile_node(models.flux_patcher(), backend="nexfort")["check"]["findings"]
    assert "nexfort does not compile for cpu" in [finding["what"] for finding in found]
    assert compile_node(models.flux_patcher(), backend="oneflow")["check"]["findings"] == []


def test_a_scope_that_does_not_fit_the_model_is_in_the_record_before_sampling(compile_node):
    (finding,) = compile_node(models.flux_patcher(), scope="attention")["check"]["findings"]
    assert (finding["rule"], finding["severity"], finding["path"]) == ("nothing-in-scope", "error", "scope")
    assert "Flux" in finding["what"]
    assert finding["fix"] == "Set scope to “blocks”."


def test_weights_in_another_type_than_the_computation_are_noted(compile_node):
    patcher = models.unet_patcher()
    patcher.model.half()
    patcher.model.manual_cast_dtype = torch.float32
    (finding,) = compile_node(patcher)["check"]["findings"]
    assert (finding["rule"], finding["severity"]) == ("weights-are-cast", "note")
    assert "of weights are float16 and computed in float32" in finding["what"]


@pytest.mark.parametrize(
    ("state", "room", "expected"),
    [
        ("NORMAL_VRAM", 100.0, 0.0),
        ("NORMAL_VRAM", 0.25, 0.75),
        ("NORMAL_VRAM", -100.0, 1.0),
        ("NO_VRAM", 100.0, 1.0),
        ("HIGH_VRAM", 0.25, 0.0),
    ],
)
def test_weights_that_will_not_fit_are_counted_as_comfyui_does(monkeypatch, state, room, expected):
    """``room`` is left beside what a step needs, as a part of the model's size."""
    import comfy.model_management as management
    from onediff_pack.host.compile_facts import offloaded_bytes

    patcher = models.unet_patcher()
    patcher.load_device = torch.device("cuda")
    monkeypatch.setattr(management, "vram_state", management.VRAMState[state])
    size = sum(parameter.nbytes for parameter in patcher.model.parameters())
    memory = management.minimum_inference_memory() + room * size
    monkeypatch.setattr(management, "get_total_memory", lambda device: memory)
    assert offloaded_bytes(patcher) == pytest.approx(expected * size, rel=0.01)


def test_a_module_that_the_model_calls_is_found_by_calling(check_node):
    patcher = models.flux_patcher()
    patcher.add_object_patch("diffusion_model.double_blocks.1.img_attn.proj", NoForward())
    (_, report, ok), record = check_node(patcher)
    (finding,) = json.loads(report)["findings"]
    assert not ok
    assert (finding["path"], finding["rule"]) == ("double_blocks.1.img_attn.proj", "no-forward")
    assert "read in" not in finding["why"]
    assert record["check"]["errors"] == 1


def test_a_processor_that_fits_nowhere_names_all_reasons_and_what_to_do():
    """A module processor for GPUs alone, in a model on the CPU whose attention has no projections of its own."""
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention
    from onediff_pack.processors import Limits, ModuleProcessor

    class ForGpus(ModuleProcessor):
        limits = Limits(devices=frozenset({"cuda"}))

    inputs = {"processor": "sdpa", "sites": "all", "blocks": "", "custom": ForGpus()}
    _, record = execute(OneDiffPatchAttention, model=models.flux_patcher(), **inputs)
    found = [finding for finding in record["check"]["findings"] if "keep their own attention" in finding["what"]]
    assert {finding["path"].partition(".")[0] for finding in found} == {"double_blocks", "single_blocks"}
    for finding in found:
        assert "does not compute attention from to_q" in finding["why"]
        assert "device cpu is not among cuda" in finding["why"]
        assert finding["fix"] == "Use sdpa at these places."


def test_a_check_behind_a_processor_that_was_not_taken_says_so(check_node, tmp_path, monkeypatch):
    """What is checked is sdpa, in which nothing is wrong."""
    from onediff_pack.host import offered_processors
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention
    from onediff_pack.processors.sources.custom import CustomProcessors

    (tmp_path / "softcap.py").write_text("from torch import nn\n\n\nclass SoftCap(nn.Module):\n    level = 'kernel'\n")
    monkeypatch.setattr(offered_processors, "CUSTOM", CustomProcessors(lambda: [tmp_path]))
    inputs = {"processor": "custom/softcap:SoftCap", "sites": "all", "blocks": ""}
    (patched,), record = execute(OneDiffPatchAttention, model=models.unet_patcher(), **inputs)
    assert record["summary"].startswith("SoftCap not used, sdpa is · softcap.py:4: ")
    (_, _, ok), checked = check_node(patched)
    (finding,) = checked["check"]["findings"]
    assert (ok, finding["severity"], finding["class"]) == (True, "warning", "SoftCap")
    assert finding["what"] == "custom/softcap:SoftCap is not in this model; sdpa is"
    assert finding["why"].startswith("Patch Attention Processors (node 7) did not take it: ")
