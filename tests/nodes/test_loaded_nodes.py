"""The nodes that load a processor and give it a picture, and what Patch Attention Processors says of them."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loaded
import pytest
import torch

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")

import models
from onediff_pack.patching.wrappers import KEY

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def model() -> Any:
    return models.unet_patcher()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import folder_paths
    from onediff_pack.host.loading.files import IP_FOLDER, USER_FOLDER

    known = dict(folder_paths.folder_names_and_paths)
    known |= {name: ([str(tmp_path)] if name == USER_FOLDER else [], set()) for name in (USER_FOLDER, IP_FOLDER)}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def executed(name: str, **inputs: Any) -> Any:
    from comfy_api.latest import io
    from onediff_pack.nodes.ip_adapter import OneDiffIPAdapter
    from onediff_pack.nodes.load_processor import OneDiffLoadProcessor
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention

    nodes: dict[str, Any] = {"load": OneDiffLoadProcessor, "ip": OneDiffIPAdapter, "patch": OneDiffPatchAttention}
    hidden = {io.Hidden.unique_id: "7", io.Hidden.extra_pnginfo: None}
    with torch.inference_mode():
        return nodes[name].PREPARE_CLASS_CLONE({"hidden_inputs": hidden}).execute(**inputs)


def patched(model: Any, custom: Any, **inputs: Any) -> Any:
    given = {"processor": "sdpa", "sites": "all", "blocks": "", **inputs}
    return executed("patch", model=model, custom=custom, **given)


def adapter(folder: Path, model: Any, kind: Any = loaded.standard, **inputs: Any) -> Any:
    torch.manual_seed(0)
    loaded.saved(folder, loaded.ip_adapter(model, kind(48)))
    return executed("load", file="ip.safetensors", **inputs).args[0]


def with_picture(file: Any, **inputs: Any) -> Any:
    return executed("ip", processor=file, **{"clip_vision_output": loaded.picture(), **inputs}).args[0]


def test_an_adapter_goes_through_three_nodes_and_is_seen_in_the_record(folder, model):
    given = patched(model, with_picture(adapter(folder, model)))
    (record,) = given.ui["onediff"]
    assert record["summary"] == "patched 7 sites · ip"
    assert all(one["site"].endswith("attn2") for one in record["patches"]["sites"])
    assert record["check"]["findings"] == []
    result = models.step(given.args[0])
    assert (result - models.step(model)).abs().max() > 1e-4
    assert torch.equal(models.step(model), models.step(model)), "the model itself is as it was"
    assert len(given.args[0].get_additional_models_with_key(KEY)) == 1


def test_it_goes_to_the_chosen_blocks_alone(folder, model):
    file = with_picture(adapter(folder, model))
    (record,) = patched(model, file, blocks="middle_block").ui["onediff"]
    assert [one["site"] for one in record["patches"]["sites"]] == ["middle_block.1.transformer_blocks.0.attn2"]
    with pytest.raises(ValueError, match="names none of the chosen places; choose others with “sites” and “blocks”"):
        patched(model, file, sites="self")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"processor": "a text"}, "processor is 'a text'; connect Load Attention Processor."),
    "no picture": (
        {"clip_vision_output": 5},
        "clip_vision_output is 5 without image_embeds; connect CLIP Vision Encode.",
    ),
    "another encoder": (
        {"clip_vision_output": SimpleNamespace(image_embeds=torch.zeros(1, 1024))},
        "clip_vision_output has 1024 channels, and models/attention_processors/ip.safetensors needs 40; "
        "load the CLIP vision model that the file was made with.",
    ),
    "NaN": (
        {"clip_vision_output": SimpleNamespace(image_embeds=torch.full((1, 40), math.nan))},
        "clip_vision_output holds NaN or infinite numbers; encode the picture in float32.",
    ),
    "no mask": ({"mask": torch.zeros(3)}, "mask is a Tensor; connect a mask, or nothing."),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_connected_wrongly_ends_in_one_sentence(folder, model, name):
    given, sentence = WRONG[name]
    inputs = {"processor": adapter(folder, model), "clip_vision_output": loaded.picture(), **given}
    with pytest.raises(ValueError, match="IP-Adapter Processor") as error:
        executed("ip", **inputs)
    assert str(error.value) == f"IP-Adapter Processor (node 7): {sentence}"


@pytest.mark.parametrize(("width", "encoder"), [(1024, "ViT-H"), (1280, "ViT-bigG")])
def test_the_clip_vision_model_that_a_standard_file_needs_is_named(folder, model, width, encoder, monkeypatch):
    given = loaded.picture()
    monkeypatch.setattr(loaded, "EMBED", width)
    with pytest.raises(ValueError, match=f"needs {width}; load {encoder} in Load CLIP Vision"):
        executed("ip", processor=adapter(folder, model), clip_vision_output=given)


def test_an_adapter_without_picture_or_for_another_model_ends_with_what_to_do(folder, model):
    file = adapter(folder, model)
    shown = "models/attention_processors/ip.safetensors"
    cases = [
        (model, file, "is an IP-Adapter that was given no picture; put IP-Adapter Processor between"),
        (
            models.deep_unet_patcher(),
            with_picture(file),
            "is for a model with 7 cross-attentions; this one has",
        ),
        (
            models.flux_patcher(),
            with_picture(file),
            "is for UNets, which this model is not; load SD 1.5 or SDXL",
        ),
    ]
    for other, given, sentence in cases:
        with pytest.raises(ValueError, match=r"Patch Attention Processors \(node 7\): ") as error:
            patched(other, given)
        assert f"{shown} {sentence}" in str(error.value)


def test_an_adapter_of_other_widths_names_the_place(folder, model):
    torch.manual_seed(0)
    loaded.saved(folder, {**loaded.standard(48), **loaded.at_sites([32, 64, 64, 64, 32, 32, 32], 48)})
    file = with_picture(executed("load", file="ip.safetensors").args[0])
    with pytest.raises(ValueError, match="has 32 channels where middle_block") as error:
        patched(model, file)
    assert "use the file that is made for this model" in str(error.value)


ODD = {"strength": ["load", 1.0], "weight": ["ip", 1.0], "start_percent": ["ip", 0.0], "end_percent": ["ip", 1.0]}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("value", ["1", None, math.nan, [1.0], True], ids=repr)
def test_an_odd_number_becomes_a_finding_of_the_node_that_patches(folder, model, name, value):
    node, used = ODD[name]
    file = adapter(folder, model, **({name: value} if node == "load" else {}))
    given = with_picture(file, **({name: value} if node == "ip" else {}))
    (record,) = patched(model, given).ui["onediff"]
    (finding,) = record["check"]["findings"]
    assert finding["path"] == name
    assert finding["severity"] == "warning"
    assert f"{used!r} is used instead" in finding["what"]


@pytest.mark.parametrize(
    ("processor", "said"),
    [
        ("os:system", "names the processor os:system, which is neither built in nor one of your own"),
        ("diffusers/AttnProcessor2_0", "which is neither built in nor one of your own"),
        ("custom/../../x:Y", None),
        ("sdpa", "has weights for sdpa, which takes none"),
    ],
)
def test_a_file_names_only_what_is_listed(folder, model, processor, said):
    metadata = {"onediff.format": "1", "onediff.processor": processor}
    loaded.saved(folder, {"*:gain": torch.ones(2)}, "mine", metadata)
    file = executed("load", file="mine.safetensors").args[0]
    if said is None:
        (record,) = patched(model, file).ui["onediff"]
        assert record["patches"]["rejected"]["processor"] == processor
        assert "sdpa is used instead" in record["check"]["findings"][0]["what"]
        return
    with pytest.raises(ValueError, match=r"Patch Attention Processors \(node 7\): ") as error:
        patched(model, file)
    assert said in str(error.value)


def test_a_built_in_class_without_weights_is_used(folder, model):
    loaded.saved(folder, {}, "plain", {"onediff.format": "1", "onediff.processor": "reference"})
    (record,) = patched(model, executed("load", file="plain.safetensors").args[0]).ui["onediff"]
    assert {one["processor"] for one in record["patches"]["sites"]} == {"reference"}
    assert len(record["patches"]["sites"]) == 14


def test_a_kernel_whose_package_is_missing_gives_way_to_sdpa_in_full(folder, model):
    """As where the node names it: the strength of the file is one of a kernel that is not there."""
    loaded.saved(folder, {}, "plain", {"onediff.format": "1", "onediff.processor": "sage"})
    output = patched(model, executed("load", file="plain.safetensors", strength=0.5).args[0])
    (record,) = output.ui["onediff"]
    assert {one["processor"] for one in record["patches"]["sites"]} == {"sdpa"}
    (finding,) = record["check"]["findings"]
    assert (finding["what"].split(";")[0], finding["why"]) == (
        "sage is not used",
        "The package sageattention is not installed.",
    )
    torch.testing.assert_close(models.step(output.args[0]), models.step(model), rtol=1e-4, atol=1e-5)
    ((wrapper,),) = (output.args[0].get_wrappers("apply_model", KEY),)
    assert wrapper.strength == 1


def test_another_nodes_processor_is_taken_as_before(model):
    from onediff_pack.processors import get_processor

    (record,) = patched(model, get_processor("reference")).ui["onediff"]
    assert record["summary"] == "patched 14 sites · custom"
