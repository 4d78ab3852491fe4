"""The nodes of OneDiff's own pack: what an old value became, and that no value of any kind stops a workflow."""

from __future__ import annotations

import importlib
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from onediff_pack.proving.proof import Proof
from rights import folder_for_all, refused

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
models, vaes, controls = (importlib.import_module(name) for name in ("models", "vaes", "controls"))

pytestmark = pytest.mark.usefixtures("host")

#: As OneDiff's pack registered them, from 0.11.2 to its end.
IDS = """
    ModelSpeedup VaeSpeedup ControlnetSpeedup OneDiffModelBooster OneDiffCheckpointLoaderSimple OneDiffControlNetLoader
    OneDiffNexfortBooster ResolutionSpeedupChecker OneDiffTorchCompileBooster CLIPTextEncodePromptStyle
    OneFlowDeepcacheBooster OneDiffOnlineQuantizationBooster ModuleDeepCacheSpeedup
    OneDiffDeepCacheCheckpointLoaderSimple BatchSizePatcher SVDSpeedup VaeGraphLoader VaeGraphSaver ModelGraphLoader
    ModelGraphSaver CompareModel ShowImageDiff UNETLoaderInt8 Quant8Model OneDiffQuantCheckpointLoaderSimple
    OneDiffQuantCheckpointLoaderSimpleAdvanced ImageOnlyOneDiffQuantCheckpointLoaderAdvanced ControlNetSpeedup
    ControlNetGraphLoader ControlNetGraphSaver QuantKSampler
"""

ODD: dict[str, Any] = {
    "a number": 5,
    "none": None,
    "NaN": math.nan,
    "a text": "nonsense",
    "a list": ["all"],
    "a dict": {"a": 1},
    "too large": 10**400,
}


def rows() -> dict[str, Any]:
    from onediff_pack.nodes.migration.table import ROWS

    return {row.id: row for row in ROWS}


#: A text encoder, as far as it is looked at.
CLIP = SimpleNamespace(tokenize=None)


def run(node: str, **inputs: Any) -> tuple[tuple, dict[str, Any]]:
    """Runs an old node as ComfyUI does: its outputs, and its record as it is then."""
    outputs, record = run_and_watch(node, **inputs)
    return outputs, json.loads(json.dumps(record, allow_nan=False))


def run_and_watch(node: str, **inputs: Any) -> tuple[tuple, dict[str, Any]]:
    """The same, with the record as it goes on."""
    from comfy_api.latest import io
    from onediff_pack.nodes.migration.node import made

    sent = {name: value for name, value in inputs.items() if name.endswith(" (as sent)")}
    prompt = SimpleNamespace(get_node=lambda _: {"inputs": sent}, get_display_node_id=lambda node: node)
    hidden = {io.Hidden.unique_id: "7", io.Hidden.extra_pnginfo: None, io.Hidden.dynprompt: prompt}
    given = {name: value for name, value in inputs.items() if name not in sent}
    with torch.inference_mode():
        output = made(rows()[node]).PREPARE_CLASS_CLONE({"hidden_inputs": hidden}).execute(**given)
    return output.args, output.ui["onediff"][0]


def settings_of(model: Any) -> Any:
    """What the model is compiled with; None where it is not."""
    from onediff_pack.compilers import Session
    from onediff_pack.patching.wrappers import attached

    sessions = attached(model, Session)
    return sessions[0].settings if sessions else None


def boost(**boosters: Any) -> Any:
    return run("OneDiffModelBooster", **boosters)[0][0]


@pytest.fixture(scope="module")
def patcher() -> Any:
    return models.unet_patcher()


@pytest.fixture(autouse=True)
def no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    from onediff_pack.host.copies import sessions
    from onediff_pack.nodes import compile as node
    from sessions import known

    for module in (node, sessions):
        monkeypatch.setattr(module, "PROOFS", known(inductor=Proof(True, "stands in.", 0.0)))


@pytest.fixture(autouse=True, scope="module")
def no_styles() -> None:
    from onediff_pack.host.migration.prompt_styles import register_folder

    register_folder()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, patcher: Any) -> list[tuple[str, dict[str, Any]]]:
    """Stands in for ComfyUI's loaders; gives what was asked of them."""
    from onediff_pack.host.migration import stock_nodes
    from onediff_pack.nodes.migration import compiling, passing, prompts

    asked: list[tuple[str, dict[str, Any]]] = []

    def stock(node: str, **inputs: Any) -> tuple:
        asked.append((node, inputs))
        return (patcher, "clip", "vae") if "Checkpoint" in node else (node,)

    for module in (compiling, passing, prompts):
        monkeypatch.setattr(module, "stock", stock)
    monkeypatch.setattr(stock_nodes, "files", lambda folder: ["sd15/a.safetensors"])
    return asked


def test_every_id_is_there_once():
    assert sorted(rows()) == sorted(IDS.split())


# old value → (backend, effort), None: uncompiled
BECAME: dict[str, tuple[dict[str, Any], tuple[str, str] | None]] = {
    "nothing": ({}, ("auto", "fast start")),
    "static_mode enable": ({"static_mode": "enable"}, ("auto", "fast start")),
    "static_mode disable": ({"static_mode": "disable"}, None),
    "inplace": ({"inplace": False}, ("auto", "fast start")),
    "torch.compile, default": ({"torch": {"mode": "default"}}, ("inductor", "fast start")),
    "torch.compile, reduce-overhead": ({"torch": {"mode": "reduce-overhead"}}, ("inductor", "fast start")),
    "torch.compile, max-autotune": ({"torch": {"mode": "max-autotune"}}, ("inductor", "max speed")),
    "torch.compile, no cudagraphs": ({"torch": {"mode": "max-autotune-no-cudagraphs"}}, ("inductor", "max speed")),
    "torch.compile, disabled": ({"torch": {"mode": "default", "disable": True}}, None),
    "nexfort, its default": ({"nexfort": {}}, ("nexfort", "max speed")),
    "nexfort, optimised": ({"nexfort": {"mode": "max-optimize:low-precision"}}, ("nexfort", "max speed")),
    "nexfort, jit": ({"nexfort": {"mode": "jit:disable-runtime-fusion:low-precision"}}, ("nexfort", "fast start")),
}


@pytest.mark.parametrize("name", BECAME)
def test_values_that_mattered_are_settings_of_compiling_now(patcher, name):
    old, became = BECAME[name]
    inputs = {key: value for key, value in old.items() if key not in ("torch", "nexfort")}
    for key, node in (("torch", "OneDiffTorchCompileBooster"), ("nexfort", "OneDiffNexfortBooster")):
        if key in old:
            inputs["custom_booster"] = boost(torchcompile_booster=run(node, **old[key])[0][0])
    (model,), record = run("ModelSpeedup", model=patcher, **inputs)
    settings = settings_of(model)
    assert (settings and (settings.backend, settings.effort)) == became
    assert settings is None or (settings.scope, settings.stop_if_unfit, settings.keep_faster) == ("blocks", False, True)
    if became is None:
        assert model is patcher
        assert record["summary"].startswith("uncompiled: ")
        at_booster = "Turn off disable on Torch Compile Booster to compile."
        fix = "Set static_mode to “enable” to compile." if "static_mode" in old else at_booster
        assert record["check"]["findings"][0]["fix"] == fix


def test_the_users_seconds_of_compiling_hold_for_old_nodes(patcher, files, monkeypatch):
    from onediff_pack.host import user_settings

    monkeypatch.delenv("ONEDIFF_COMPILE_SECONDS", raising=False)
    monkeypatch.setattr(user_settings, "user_settings", lambda: {"OneDiff.Compile.Seconds": 30})
    assert settings_of(run("ModelSpeedup", model=patcher)[0][0]).compile_seconds == 30
    loaded = run("OneDiffCheckpointLoaderSimple", ckpt_name="sd15/a.safetensors")[0][0]
    assert settings_of(loaded).compile_seconds == 30


def test_what_is_gone_is_said_and_the_model_is_compiled_anyway(patcher):
    int8 = run("OneDiffOnlineQuantizationBooster", quantized_conv_percentage=70)[0][0]
    booster = boost(quantization_booster=int8)
    (model,), record = run("SVDSpeedup", model=patcher, custom_booster=booster, cache_name="svd")
    assert settings_of(model) is not None
    said = [finding["what"] for finding in record["check"]["findings"] if finding["severity"] == "warning"]
    assert said == ["not quantised: the model keeps its own precision"]


def caching(model):
    from onediff_pack.patching.skipping.deep_cache import DeepCache
    from onediff_pack.patching.wrappers import attached

    return [wrapper._settings for wrapper in attached(model, DeepCache)]


def test_deepcache_is_used_where_the_workflow_asks_for_it_and_said(patcher):
    from models import flux_patcher
    from onediff_pack.patching.skipping.deep_cache import CacheSettings

    booster = boost(deepcache_booster=run("OneFlowDeepcacheBooster", cache_interval=5, end_step=700.5)[0][0])
    (model,), record = run("SVDSpeedup", model=patcher, custom_booster=booster)
    assert caching(model) == [CacheSettings(5, 0, 1, 0, 700)]
    asked = {"cache_interval": 2, "cache_layer_id": 1, "cache_block_id": 0, "start_step": 100, "end_step": 900}
    for static in ("enable", "disable"):
        (model,), record = run("ModuleDeepCacheSpeedup", model=patcher, static_mode=static, **asked)
        assert caching(model) == [CacheSettings(2, 1, 0, 100, 900)]
        assert (settings_of(model) is not None) == (static == "enable")
        (found,) = [one for one in record["check"]["findings"] if "DeepCache" in one["what"]]
        assert "changes the picture" in found["what"] and "EasyCache" in found["fix"]
    assert caching(patcher) == [], "another node that shares the model"
    (model,), record = run("ModuleDeepCacheSpeedup", model=flux_patcher())
    assert caching(model) == []
    (found,) = [one for one in record["check"]["findings"] if "DeepCache" in one["what"]]
    assert (found["severity"], found["what"]) == ("warning", "DeepCache is not used: every step is computed in full")


def test_a_sampling_with_deepcache_says_how_far_it_is_off(patcher):
    from models import step

    asked = {"model": patcher, "static_mode": "disable", "cache_interval": 2}
    (model,), record = run_and_watch("ModuleDeepCacheSpeedup", **asked)
    steps = lambda: [step(model, sigma=sigma) for sigma in (3.0, 2.5, 2.0)]  # noqa: E731
    for sampling in model.get_wrappers("outer_sample", "onediff"):
        sampling(steps)
    found = record["approximate"]
    assert (found["by"], found["steps"], found["of"]) == ("DeepCache", 1, 3)
    assert 0 < found["off"] < 1
    assert "approximate, steps " in record["summary"] and record["summary"].endswith(" off (DeepCache)")


@pytest.mark.parametrize(
    ("node", "values", "compiled"),
    [
        ("OneDiffCheckpointLoaderSimple", {"vae_speedup": "disable"}, True),
        ("OneDiffCheckpointLoaderSimple", {"vae_speedup": "enable"}, True),
        ("OneDiffQuantCheckpointLoaderSimple", {"vae_speedup": "disable"}, True),
        ("OneDiffQuantCheckpointLoaderSimpleAdvanced", {"compile": "enable"}, True),
        ("OneDiffQuantCheckpointLoaderSimpleAdvanced", {"compile": "disable"}, False),
        ("OneDiffDeepCacheCheckpointLoaderSimple", {"static_mode": "disable"}, False),
        ("ImageOnlyOneDiffQuantCheckpointLoaderAdvanced", {"compile": "enable", "model_path": "a.pt"}, True),
    ],
)
def test_a_checkpoint_is_loaded_and_compiled(files, node, values, compiled):
    (model, clip, vae), record = run(node, ckpt_name="sd15\\a.safetensors", **values)
    loader = "ImageOnlyCheckpointLoader" if node.startswith("ImageOnly") else "CheckpointLoaderSimple"
    assert files == [(loader, {"ckpt_name": "sd15/a.safetensors"})]
    assert (settings_of(model) is not None, clip, vae) == (compiled, "clip", "vae")
    said = "".join(finding["what"] for finding in record["check"]["findings"])
    assert ("not quantised" in said) == ("Quant" in node)
    title = "Image Only Checkpoint Loader" if node.startswith("ImageOnly") else "Load Checkpoint"
    fixes = [finding["fix"] for finding in record["check"]["findings"] if "not quantised" in finding["what"]]
    assert fixes == [f"Use {title} with OneDiff Compile."] * ("Quant" in node)


@pytest.mark.parametrize("name", ["missing.safetensors", None, 5, "../a.safetensors"])
def test_a_checkpoint_that_is_not_there_ends_with_its_name(files, name):
    with pytest.raises(ValueError, match=r"Load Checkpoint - OneDiff \(node 7\): ckpt_name .* is not in models/check"):
        run("OneDiffCheckpointLoaderSimple", ckpt_name=name)
    assert files == []


PASSED = {
    "VaeGraphLoader": {"vae": "a vae"},
    "ModelGraphLoader": {"model": "a model"},
    "ControlNetGraphLoader": {"control_net": "a net"},
    "BatchSizePatcher": {"model": "a model", "latent_image": "a latent"},
    "ResolutionSpeedupChecker": {"samples": "a latent"},
    "VaeGraphSaver": {"images": "pictures", "vae": "a vae"},
    "ModelGraphSaver": {"samples": "a latent", "model": "a model"},
    "ControlNetGraphSaver": {"samples": "a latent", "control_net": "a net"},
    "Quant8Model": {"model": "a model"},
}


@pytest.mark.parametrize("node", PASSED)
def test_nodes_without_a_task_hand_on_what_they_are_given_and_say_why(node):
    outputs, record = run(node, **PASSED[node])
    assert outputs == tuple(PASSED[node].values())[: len(rows()[node].outputs)]
    assert record["state"] == "passed"
    assert record["check"]["errors"] == 0
    alone, _ = run(node)
    assert alone == (None,) * len(rows()[node].outputs), "all inputs are optional"


@pytest.mark.parametrize(
    ("values", "became"),
    [
        ({}, "auto"),
        ({"static_mode": "enable"}, "auto"),
        ({"static_mode": "disable"}, None),
        ({"custom_booster": {"mode": "max-autotune"}}, "inductor"),
        ({"custom_booster": {"disable": True}}, None),
    ],
)
def test_vae_speedup_compiles(values, became):
    from onediff_pack.host.copies.vae import session_of

    if "custom_booster" in values:
        booster = run("OneDiffTorchCompileBooster", **values["custom_booster"])[0][0]
        values = {"custom_booster": boost(torchcompile_booster=booster)}
    vae = vaes.small_vae()
    (given,), record = run("VaeSpeedup", vae=vae, **values)
    session = session_of(given)
    assert session_of(vae) is None
    assert (session and session.settings.backend) == became
    assert (given is vae) == (became is None)
    assert record["summary"].startswith("uncompiled: " if became is None else "ready: ")


@pytest.mark.parametrize("node", ["ControlnetSpeedup", "ControlNetSpeedup"])
def test_control_net_speedup_compiles_and_hands_on_a_stack(node):
    from onediff_pack.host.copies.control_net import session_of

    control = controls.CONTROLS["ControlNet"].make()
    given = {"cnet_stack": ["a stack"]} if node == "ControlnetSpeedup" else {}
    outputs, record = run(node, control_net=control, **given)
    assert session_of(outputs[0]) is not None and session_of(control) is None
    assert list(outputs[1:]) == [value for value in given.values()]
    said = [finding["what"] for finding in record["check"]["findings"]]
    assert said == (["the stack is handed on as it is"] if given else [])
    assert record["summary"].startswith("ready: ")


def test_the_control_net_loader_loads_and_compiles(files, monkeypatch):
    from onediff_pack.host.copies.control_net import session_of
    from onediff_pack.nodes.migration import compiling

    control = controls.CONTROLS["ControlLoRA"].make()
    monkeypatch.setattr(compiling, "stock", lambda node, **inputs: files.append((node, inputs)) or (control,))
    (given,), record = run("OneDiffControlNetLoader", control_net_name="sd15\\a.safetensors")
    assert files == [("ControlNetLoader", {"control_net_name": "sd15/a.safetensors"})]
    assert session_of(given) is not None
    assert (record["state"], record["summary"]) == ("idle", "not run yet")


def said_of_vae(record):
    return [finding["what"] for finding in record["check"]["findings"] if finding["path"] == "vae_speedup"]


def test_a_loader_that_is_asked_to_compiles_the_vae_too(files, monkeypatch, patcher):
    from onediff_pack.host.copies.vae import session_of
    from onediff_pack.nodes.migration import compiling

    vae = vaes.small_vae()
    monkeypatch.setattr(compiling, "stock", lambda node, **inputs: (patcher, "clip", vae))
    given = {"ckpt_name": "sd15/a.safetensors"}
    (model, _, plain), record = run("OneDiffCheckpointLoaderSimple", **given, vae_speedup="disable")
    assert (plain is vae, "VAE" in str(record["check"]["findings"])) == (True, False)
    (model, _, compiled), record = run_and_watch("OneDiffCheckpointLoaderSimple", **given, vae_speedup="enable")
    assert settings_of(model) is not None and session_of(compiled) is not None
    assert said_of_vae(record) == ["VAE: not used yet"]
    session_of(compiled).record.update(state="uncompiled", backend={"reason": "no C++ compiler was found."})
    assert said_of_vae(record) == ["VAE: uncompiled: no C++ compiler was found."]
    assert record["state"] == "idle", "the line stays the model's"


def test_a_text_encoder_that_is_none_ends_the_run_with_what_to_do():
    for given in ({}, {"clip": None}, {"clip": False}, {"clip": "a cat"}):
        with pytest.raises(ValueError, match=r"\(node 7\): clip is not connected to a text encoder\. Connect one"):
            run("CLIPTextEncodePromptStyle", text_positive="a cat", **given)


@pytest.mark.parametrize("node", ["VaeSpeedup", "ControlnetSpeedup", "ControlNetSpeedup"])
def test_they_hand_on_nothing_when_nothing_is_connected(node):
    outputs, record = run(node)
    assert outputs == (None,) * len(rows()[node].outputs)
    assert record["state"] == "passed" and "nothing to compile" in record["summary"]


def test_an_int8_model_ends_the_run_with_what_to_do():
    with pytest.raises(ValueError, match=r"UNET Loader Int8 \(node 7\): int8 models .* cannot be loaded"):
        run("UNETLoaderInt8", model_path="sdxl_int8")


def test_quant_k_sampler_samples_as_ksampler_does(files, patcher):
    values = {"seed": 5, "steps": 3, "cfg": 2.5, "sampler_name": "ddim", "scheduler": "karras", "denoise": 0.5}
    links = {"model": patcher, "positive": [], "negative": [], "latent_image": {}}
    _, record = run("QuantKSampler", **links, **values, bits=8, overwrite="enable")
    assert files == [("KSampler", {**values, **links})]
    assert record["summary"] == "sampled without int8"


def test_a_checkpoint_loader_with_the_int8_booster_names_the_booster(files):
    booster = boost(quantization_booster=run("OneDiffOnlineQuantizationBooster")[0][0])
    _, record = run("OneDiffCheckpointLoaderSimple", ckpt_name="sd15/a.safetensors", custom_booster=booster)
    (finding,) = [one for one in record["check"]["findings"] if "not quantised" in one["what"]]
    assert (finding["path"], finding["fix"].split(" or ")[1]) == ("custom_booster", "remove Online OneFlow Quantizer.")


def test_the_editor_says_of_each_node_what_the_server_says():
    from pathlib import Path

    said = json.loads((Path(__file__).parents[2] / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {name: said[name]["description"] for name in rows()} == {
        name: row.stands_for for name, row in rows().items()
    }


def test_a_style_comes_from_the_users_own_file_and_without_one_the_prompts_are_plain(files, tmp_path, monkeypatch):
    import folder_paths
    from onediff_pack.host.migration.prompt_styles import style_names

    ink = {"name": "Ink", "prompt": "ink drawing of {prompt}", "negative_prompt": "photo"}
    (tmp_path / "mine.json").write_text(json.dumps([ink, {**ink, "prompt": "{prompt}, in ink"}]))
    (tmp_path / "other.json").write_text("{broken")
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [str(tmp_path)])
    assert style_names() == ["(No style)", "Ink", "Ink_1"]

    def texts(style: str, **switches: bool) -> tuple[list[str], str]:
        files.clear()
        values = {"text_positive": "a cat", "text_negative": "blur", "style": style, "clip": CLIP, **switches}
        _, record = run("CLIPTextEncodePromptStyle", **values)
        return [inputs["text"] for _, inputs in files], record["summary"]

    assert texts("Ink") == (["ink drawing of a cat", "photo, blur"], "style: Ink")
    assert texts("Ink_1", style_negative=False) == (["a cat, in ink", "blur"], "style: Ink_1")
    assert texts("Watercolor") == (
        ["a cat", "blur"],
        "the prompts as they are: there is no style 'Watercolor' here",
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_files_that_cannot_be_read_keep_no_style_out(monkeypatch):
    import folder_paths
    from onediff_pack.host.migration.prompt_styles import fingerprint, style_names

    def write(folder: Path, name: str) -> None:
        (folder / "mine.json").write_text(json.dumps([{"name": name, "prompt": "{prompt}"}]))

    with folder_for_all() as parent:
        folders = [parent / name for name in ("names only", "closed", "open")]
        monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [str(folder) for folder in folders])
        for folder in folders:
            folder.mkdir()
            write(folder, "Ink")
        os.mkfifo(folders[2] / "pipe.json")
        (folders[2] / "itself.json").symlink_to("itself.json")
        with refused({folders[0]: 0o444, folders[1]: 0o000}):
            assert style_names() == ["(No style)", "Ink"]
            before = fingerprint()
        write(folders[2], "Chalk")
        assert fingerprint() != before


def test_only_styles_of_the_same_name_are_numbered(tmp_path, monkeypatch):
    import folder_paths
    from onediff_pack.host.migration.prompt_styles import style_names, styles

    names = ["Film_Noir", "Film", "Ink", "Ink_1", "Ink", "Film"]
    entries = [{"name": name, "prompt": f"{number}"} for number, name in enumerate(names)]
    (tmp_path / "mine.json").write_text(json.dumps(entries))
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [str(tmp_path)])
    assert style_names() == ["(No style)", "Film_Noir", "Film", "Ink", "Ink_1", "Ink_2", "Film_1"]
    assert [style.prompt for style in styles().values()] == ["0", "1", "2", "3", "4", "5"]


def test_models_are_compared_by_their_weights(patcher):
    inputs = {"torch_model": patcher, "oneflow_model": models.unet_patcher()}
    assert run("CompareModel", **inputs)[1]["summary"] == "all weights are equal"
    other = {**inputs, "oneflow_model": models.unet_patcher(seed=1)}
    with pytest.raises(ValueError, match=r"Model Weight Comparator \(node 7\): \d+ weights differ"):
        run("CompareModel", **other)
    assert "not compared" in run("CompareModel", **other, check="disable")[1]["summary"]
    lora = patcher.clone()
    name = next(iter(patcher.model.state_dict()))
    lora.add_patches({name: ("diff", (torch.ones(1),))}, 0.5)
    assert run("CompareModel", torch_model=patcher, oneflow_model=lora)[1]["summary"] == f"1 weights differ: {name}"


def test_comparing_models_can_be_cancelled(patcher):
    """In the middle: weights of 12 billion numbers take a minute."""
    import comfy.model_management as management

    inputs = {"torch_model": patcher, "oneflow_model": models.unet_patcher()}
    management.interrupt_current_processing()
    try:
        with pytest.raises(management.InterruptProcessingException):
            run("CompareModel", **inputs)
    finally:
        management.interrupt_current_processing(False)


@pytest.mark.parametrize(
    ("values", "same", "near"),
    [
        ({"ssim_threshold": "0.9"}, "SSIM: 1.0000", "SSIM: 0.9"),
        ({"rtol": "1e-4", "atol": "1e-4"}, "largest difference: 0", None),
        ({"rtol": "1e-4", "atol": "0.1"}, "largest difference: 0", "largest difference: 0.0"),
        ({}, "SSIM: 1.0000", "SSIM: 0.9"),
    ],
)
def test_pictures_are_compared_as_each_version_did(values, same, near, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    picture = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(1)) * 0.5
    images = {"images1": picture, "images2": picture}
    assert run("ShowImageDiff", **images, **values)[1]["summary"].startswith(same)
    images["images2"] = picture + 0.01 * torch.rand(1, 32, 32, 3)
    if near is None:
        with pytest.raises(ValueError, match=r"Image Distinction Scanner .*largest difference"):
            run("ShowImageDiff", **images, **values)
        assert run("ShowImageDiff", **images, **values, raise_if_diff="disable")[1]["state"] == "passed"
    else:
        assert run("ShowImageDiff", **images, **values)[1]["summary"].startswith(near)
    images["images2"] = torch.rand(1, 32, 32, 3)
    with pytest.raises(ValueError, match="Image Distinction Scanner"):
        run("ShowImageDiff", **images, **values)


@pytest.mark.parametrize(("size", "count"), [(32, 3), (16, 2)])
def test_pictures_that_end_the_run_are_shown_before(size, count, tmp_path, monkeypatch):
    import folder_paths
    import server

    told: list[tuple[Any, ...]] = []
    page = SimpleNamespace(client_id="page", send_sync=lambda *message: told.append(message))
    monkeypatch.setattr(server.PromptServer, "instance", page, raising=False)
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    images = {"images1": torch.zeros(1, 32, 32, 3), "images2": torch.ones(1, size, size, 3)}
    with pytest.raises(ValueError, match="Image Distinction Scanner"):
        run("ShowImageDiff", **images)
    (message,) = [message for message in told if message[0] == "executed"]
    assert (message[1]["node"], message[1]["display_node"], message[2]) == ("7", "7", "page")
    shown = [tmp_path / image["filename"] for image in message[1]["output"]["images"]]
    assert len(set(shown)) == count and all(file.is_file() for file in shown)


def test_a_value_of_any_kind_is_a_prompt_that_runs(patcher, files):
    """As the server does it: values are put aside, then the host makes its types of what is left."""
    from onediff_pack.host.migration.prompt_values import put_aside

    make = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
    runs = 0
    for row in rows().values():
        kinds = {field.name: field.kind for field in row.inputs}
        links = {"model": patcher, "clip": CLIP, "positive": [], "negative": [], "latent_image": {}}
        pictures = dict.fromkeys(("images1", "images2"), torch.zeros(1, 8, 8, 3))
        links |= pictures | dict.fromkeys(("torch_model", "oneflow_model"), patcher)
        links |= {"ckpt_name": "sd15/a.safetensors", "control_net_name": "sd15/a.safetensors"}
        fixed = {name: value for name, value in links.items() if name in kinds}
        for kind, value in ODD.items():
            sent = {field.name: value for field in row.inputs if not field.is_link and field.name not in fixed}
            put_aside(sent, kinds, {})
            for name, given in sent.items():
                sent[name] = make[kinds[name]](given) if kinds.get(name) in make else given
                assert not isinstance(sent[name], list), f"{row.id}.{name}: the host takes {kind} for a link"
            if row.id == "UNETLoaderInt8":
                continue
            _, record = run(row.id, **fixed, **sent)
            assert record["state"] != "failed", (row.id, kind)
            runs += 1
    assert runs == 30 * len(ODD)


def test_what_cannot_be_used_is_said(files, patcher):
    links = {"model": patcher, "positive": [], "negative": [], "latent_image": {}}
    _, record = run("QuantKSampler", **links, **{"steps (as sent)": {"__value__": "many"}}, cfg=1e9)
    assert [finding["what"] for finding in record["check"]["findings"][1:]] == [
        "steps 'many' cannot be used here; 20 is used instead",
        "cfg 1000000000.0 cannot be used here; 100.0 is used instead",
    ]
    assert files[0][1]["steps"] == 20


def test_an_id_of_a_pack_that_was_loaded_earlier_is_left_to_it(monkeypatch):
    from onediff_pack.nodes import migration

    monkeypatch.setattr(migration, "is_taken", lambda node: node == "ModelSpeedup")
    monkeypatch.setattr(migration, "accept_any_value", lambda *_: None)
    ids = [node.GET_SCHEMA().node_id for node in migration.old_nodes()]
    assert len(ids) == 30 and "ModelSpeedup" not in ids


def test_a_pack_that_is_loaded_later_gets_its_prompts_as_they_were_sent(monkeypatch):
    from onediff_pack.host.migration import prompt_values

    handlers: list[Any] = []
    server = SimpleNamespace(instance=SimpleNamespace(add_on_prompt_handler=handlers.append))
    monkeypatch.setattr(prompt_values, "PromptServer", server)
    mappings: dict[str, Any] = {"ModelSpeedup": int}
    nodes = SimpleNamespace(NODE_CLASS_MAPPINGS=mappings)
    monkeypatch.setattr(importlib, "import_module", lambda name: nodes)
    prompt_values.accept_any_value({"ModelSpeedup": int}, {"ModelSpeedup": {"inplace": "BOOLEAN"}})

    def sent(inputs: Any) -> Any:
        data = {"prompt": {"1": {"class_type": "ModelSpeedup", "inputs": inputs}, "2": "no node"}}
        return handlers[0](data)["prompt"]["1"]["inputs"]

    assert sent({"inplace": "enable"}) == {"inplace (as sent)": {"__value__": "enable"}}
    assert sent({"inplace": True, "model": ["9", 0]}) == {"inplace": True, "model": ["9", 0]}
    assert handlers[0]({"prompt": None}) == {"prompt": None}
    mappings["ModelSpeedup"] = str
    assert sent({"inplace": "enable"}) == {"inplace": "enable"}
