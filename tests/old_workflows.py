"""Small prompts with the old nodes of OneDiff's own pack, one for every id and version, and the same with plain nodes.

Each change is written as the files of that version have it; what the plain graph is does not come from this pack.
"""

from __future__ import annotations

import copy
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from examples import start
from PIL import Image, ImageSequence

from scripts.checkpoints import standin
from scripts.environment import Environment
from scripts.server import Server, error_of, link_file

Prompt = dict[str, dict[str, Any]]

ROOT = Path(__file__).resolve().parents[1]

#: Workflow files that OneDiff's users were given: beside the repository, not in it.
SHARED = ROOT.parent / "shared" / "workflows" / "onediff"

CHECKPOINT, CONTROL, LORA, PICTURE = (
    "sd15_small.safetensors",
    "control_small.safetensors",
    "lora_small.safetensors",
    "in.png",
)
TEXTS = ("a cat", "blur")

#: Of the class that a file names, where that is another than SD 1.5's: gigabytes, so with ``scripts/test.py --all``.
LARGE = {"svd": "svd_narrow.safetensors", "control": "control_sdxl.safetensors", "xl": "sdxl_narrow.safetensors"}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def plain(control: bool = False, image_only: bool = False) -> Prompt:
    """A picture of 64² in two steps, with ComfyUI's own nodes."""
    prompt = {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "pos": node("CLIPTextEncode", clip=["ckpt", 1], text=TEXTS[0]),
        "neg": node("CLIPTextEncode", clip=["ckpt", 1], text=TEXTS[1]),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node(
            "KSampler",
            **{"model": ["ckpt", 0], "positive": ["pos", 0], "negative": ["neg", 0], "latent_image": ["latent", 0]},
            **{"seed": 3, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["ckpt", 2]),
        "save": node("PreviewImage", images=["decode", 0]),
    }
    if control:
        prompt["net"] = node("ControlNetLoader", control_net_name=CONTROL)
        prompt["hint"] = node("LoadImage", image=PICTURE)
        prompt["apply"] = node(
            "ControlNetApplyAdvanced",
            **{"positive": ["pos", 0], "negative": ["neg", 0], "control_net": ["net", 0], "image": ["hint", 0]},
            **{"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
        )
        prompt["sampler"]["inputs"] |= {"positive": ["apply", 0], "negative": ["apply", 1]}
    return prompt


@dataclass
class Case:
    """One id in one version. ``nodes`` are added to the plain prompt, ``inputs`` changed in it ("sampler.model")."""

    name: str
    nodes: Prompt
    inputs: dict[str, Any] = field(default_factory=dict)
    control: bool = False
    #: Part of the summary in the old node's record.
    says: str = ""

    @property
    def id(self) -> str:
        return self.nodes["old"]["class_type"]

    @property
    def plain(self) -> Prompt:
        return plain(self.control)

    @property
    def prompt(self) -> Prompt:
        prompt = copy.deepcopy({**self.plain, **self.nodes})
        for place, value in self.inputs.items():
            key, name = place.split(".")
            prompt[key]["inputs"][name] = value
        return prompt


MODEL, VAE, NET = {"model": ["ckpt", 0]}, {"vae": ["ckpt", 2]}, {"control_net": ["net", 0]}
SAMPLES = {"sampler.model": ["old", 0]}
DECODES = {"decode.vae": ["old", 0]}
CONTROLS = {"apply.control_net": ["old", 0]}
LOADS = {**SAMPLES, "pos.clip": ["old", 1], "neg.clip": ["old", 1], "decode.vae": ["old", 2]}
CACHE = {"cache_interval": 3, "cache_layer_id": 0, "cache_block_id": 1, "start_step": 0, "end_step": 1000}
#: What compiles says so on a server on which nothing new is.
LEFT, GONE = "nothing new is compiled", "compiled code is saved automatically"
SIZES = "every size and batch size"


def case(
    name: str,
    kind: str,
    given: dict[str, Any],
    places: dict[str, Any] | None = None,
    says: str = "",
    control: bool = False,
    **more: dict[str, Any],
) -> Case:
    return Case(name, {"old": node(kind, **given), **more}, places or {}, control, says)


def boosted(name: str, kind: str, link: str, says: str, **values: Any) -> Case:
    """Model Speedup with a booster of this kind at an input of Apply Model Booster."""
    together = node("OneDiffModelBooster", **{f"{link}_booster": ["old", 0]})
    speedup = node("ModelSpeedup", **MODEL, custom_booster=["together", 0], inplace=True)
    return case(name, kind, values, {"sampler.model": ["speedup", 0]}, says, together=together, speedup=speedup)


def compiles() -> list[Case]:
    torch = {"fullgraph": False, "dynamic": None, "backend": "inductor", "mode": "default", "disable": False}
    nexfort = {"fullgraph": False, "mode": "max-optimize:max-autotune:low-precision", "docs_link": ""}
    quant = {"quantized_conv_percentage": 100, "quantized_linear_percentage": 70}
    quant |= {"conv_compute_density_threshold": 100, "linear_compute_density_threshold": 300}
    empty = node("ModelSpeedup", **MODEL, custom_booster=["old", 0])
    static = {**MODEL, "static_mode": "enable"}
    return [
        case("ModelSpeedup v1", "ModelSpeedup", static, SAMPLES),
        case("ModelSpeedup v1 off", "ModelSpeedup", {**MODEL, "static_mode": "disable"}, SAMPLES, "uncompiled"),
        case("ModelSpeedup v2 v3", "ModelSpeedup", {**MODEL, "inplace": False}, SAMPLES),
        case("SVDSpeedup v1", "SVDSpeedup", static, SAMPLES),
        case("SVDSpeedup v2", "SVDSpeedup", {**MODEL, "inplace": True, "cache_name": "svd"}, SAMPLES),
        case("ModuleDeepCacheSpeedup", "ModuleDeepCacheSpeedup", {**static, **CACHE}, SAMPLES),
        boosted("Torch compile", "OneDiffTorchCompileBooster", "torchcompile", "backend: inductor", **torch),
        boosted("Nexfort v1", "OneDiffNexfortBooster", "torchcompile", "max speed", dynamic=None, **nexfort),
        boosted("Nexfort v2", "OneDiffNexfortBooster", "torchcompile", "nexfort", dynamic=True, **nexfort),
        boosted("Quantizer", "OneDiffOnlineQuantizationBooster", "quantization", "no int8", **quant),
        boosted("DeepCache", "OneFlowDeepcacheBooster", "deepcache", "DeepCache, interval 3", **CACHE),
        case("Empty booster", "OneDiffModelBooster", {}, {"sampler.model": ["speedup", 0]}, speedup=empty),
    ]


def loads() -> list[Case]:
    simple, quant = "OneDiffCheckpointLoaderSimple", "OneDiffQuantCheckpointLoaderSimple"
    given = {"ckpt_name": CHECKPOINT, "vae_speedup": "disable"}
    advanced = {**given, "model_path": "a.pt", "compile": "enable"}
    with_booster = {**given, "vae_speedup": "enable", "custom_booster": ["empty", 0]}
    deep = {**given, "static_mode": "enable", **CACHE}
    picture_and_vae = {"sampler.model": ["old", 0], "decode.vae": ["old", 2]}
    video = "ImageOnlyOneDiffQuantCheckpointLoaderAdvanced"
    return [
        case("Loader v1", simple, given, LOADS),
        case("Loader v2", simple, with_booster, LOADS, empty=node("OneDiffModelBooster")),
        case("Loader DeepCache", "OneDiffDeepCacheCheckpointLoaderSimple", deep, LOADS),
        case("Loader quant", quant, given, LOADS),
        case("Loader quant advanced", f"{quant}Advanced", advanced, LOADS),
        case("Loader img2vid", video, advanced, picture_and_vae),
    ]


def passes() -> list[Case]:
    empty = node("OneDiffModelBooster")
    boost = {"custom_booster": ["empty", 0]}
    loader, name = "OneDiffControlNetLoader", {"control_net_name": CONTROL}
    sizes = {**MODEL, "latent_image": ["latent", 0]}
    checker = {"sampler.latent_image": ["old", 0]}
    return [
        case("VaeSpeedup v1", "VaeSpeedup", {**VAE, "static_mode": "enable"}, DECODES, LEFT),
        case("VaeSpeedup v2", "VaeSpeedup", {**VAE, **boost}, DECODES, LEFT, empty=empty),
        case("VaeSpeedup v3 v4", "VaeSpeedup", {**VAE, "inplace": True}, DECODES, LEFT),
        case("ControlnetSpeedup v1", "ControlnetSpeedup", {**NET, **boost}, CONTROLS, LEFT, True, empty=empty),
        case("ControlnetSpeedup v2", "ControlnetSpeedup", {**NET, "inplace": True}, CONTROLS, LEFT, True),
        case("ControlNetSpeedup", "ControlNetSpeedup", {**NET, "static_mode": "enable"}, CONTROLS, LEFT, True),
        case("ControlNet loader v1", loader, name, CONTROLS, LEFT, True),
        case("ControlNet loader v2", loader, {**name, **boost}, CONTROLS, LEFT, True, empty=empty),
        case("VaeGraphLoader", "VaeGraphLoader", {**VAE, "graph": "a.graph"}, DECODES, GONE),
        case("ModelGraphLoader", "ModelGraphLoader", {**MODEL, "graph": "a.graph"}, SAMPLES, GONE),
        case("ControlNetGraphLoader", "ControlNetGraphLoader", {**NET, "graph": "a"}, CONTROLS, GONE, True),
        case("BatchSizePatcher", "BatchSizePatcher", sizes, SAMPLES, SIZES),
        case("ResolutionSpeedupChecker", "ResolutionSpeedupChecker", {"samples": ["latent", 0]}, checker, SIZES),
    ]


def ends() -> list[Case]:
    images, samples = {"images": ["decode", 0]}, {"samples": ["sampler", 0]}
    models = {"torch_model": ["ckpt", 0], "oneflow_model": ["ckpt", 0]}
    both = {"images1": ["decode", 0], "images2": ["decode", 0], "raise_if_diff": "enable", "image_id": "A"}
    quant = {**MODEL, "output_dir": "int8", "conv": "enable", "linear": "disable"}
    close = {**both, "rtol": "1e-4", "atol": "1e-4"}
    return [
        case("VaeGraphSaver", "VaeGraphSaver", {**images, **VAE, "filename_prefix": "vae"}, says=GONE),
        case("ModelGraphSaver", "ModelGraphSaver", {**samples, **MODEL, "filename_prefix": "unet"}, says=GONE),
        case("ControlNetGraphSaver", "ControlNetGraphSaver", {**samples, **NET}, says=GONE, control=True),
        case("CompareModel", "CompareModel", {**models, "check": "enable"}, says="all weights are equal"),
        case("ShowImageDiff v1", "ShowImageDiff", close, says="largest difference: 0"),
        case("ShowImageDiff v2", "ShowImageDiff", {**both, "ssim_threshold": "0.9"}, says="SSIM: 1.0000"),
        case("Quant8Model", "Quant8Model", quant, says="nothing was quantised"),
    ]


def others() -> list[Case]:
    settings = {"onediff_quant": "Quantization Settings", "bits": 8, "static_mode": "enable", "overwrite": "disable"}
    settings |= {"conv_mse_threshold": 0.1, "linear_mse_threshold": 0.1, "compute_density_threshold": 0}
    settings |= {"save_filename_prefix": "unet", "quantize_conv": "enable", "quantize_linear": "enable"}
    sampler = {**plain()["sampler"]["inputs"], **settings}
    style: dict[str, Any] = {
        "clip": ["ckpt", 1],
        "text_positive": TEXTS[0],
        "text_negative": TEXTS[1],
        "style": "Watercolor",
    }
    style |= {"log_prompt": True, "style_positive": True, "style_negative": True}
    both = {"sampler.positive": ["old", 0], "sampler.negative": ["old", 1]}
    return [
        case("QuantKSampler", "QuantKSampler", sampler, {"decode.samples": ["old", 0]}, "sampled without int8"),
        case("PromptStyle", "CLIPTextEncodePromptStyle", style, both, "no style 'Watercolor'"),
    ]


def cases() -> list[Case]:
    """All of them but `UNETLoaderInt8`, which has no picture."""
    return [*compiles(), *loads(), *passes(), *ends(), *others()]


def shared_files() -> list[Path]:
    return sorted(SHARED.glob("*.json"))


def names_larger_classes(text: str) -> bool:
    """Whether a workflow file is for SDXL or SVD."""
    return bool(re.search(r"(svd|xl)[^\"]*\.safetensors", text, re.IGNORECASE))


def with_small_models(text: str, own_class: bool = False) -> Any:
    """A workflow file with the small models and pictures of the tests' server in place of its own: SD 1.5's, or with
    ``own_class`` of the class that the file is for."""
    found = json.loads(text)
    _swap_names(found, own_class)
    return found


def _swap_names(value: Any, own_class: bool) -> None:
    places = value if isinstance(value, dict) else range(len(value))
    for place in places:
        inner = value[place]
        if isinstance(inner, dict | list):
            _swap_names(inner, own_class)
        elif isinstance(inner, str):
            value[place] = _small(inner, own_class)


def _small(name: str, own_class: bool) -> str:
    low = name.lower()
    if low.endswith((".png", ".jpg")):
        return PICTURE
    if not low.endswith((".safetensors", ".ckpt")):
        return name
    if own_class:
        return next(file for part, file in LARGE.items() if part in low)
    if "control" in low:
        return CONTROL
    return LORA if "hanfu" in low or "lora" in low else CHECKPOINT


#: Old ids → how a plain graph has them: the input that goes through, or another class; None: it is left out.
PLAIN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ModelSpeedup": lambda inputs: inputs["model"],
    "ModuleDeepCacheSpeedup": lambda inputs: inputs["model"],
    "SVDSpeedup": lambda inputs: inputs["model"],
    "OneDiffCheckpointLoaderSimple": lambda i: node("CheckpointLoaderSimple", ckpt_name=i["ckpt_name"]),
    "OneDiffControlNetLoader": lambda i: node("ControlNetLoader", control_net_name=i["control_net_name"]),
    "ModelGraphSaver": lambda inputs: None,
    "OneDiffModelBooster": lambda inputs: None,
    "OneDiffOnlineQuantizationBooster": lambda inputs: None,
}


def without_old(prompt: Prompt) -> Prompt:
    """The prompt with plain nodes only."""
    result: Prompt = {}
    through: dict[str, Any] = {}
    for key, one in prompt.items():
        kind, inputs = one["class_type"], one["inputs"]
        if kind == "CLIPTextEncodePromptStyle":
            for slot, name in enumerate(("text_positive", "text_negative")):
                result[f"{key}-{slot}"] = node("CLIPTextEncode", clip=inputs["clip"], text=inputs[name])
                through[f"{key}:{slot}"] = [f"{key}-{slot}", 0]
            continue
        swapped = PLAIN[kind](inputs) if kind in PLAIN else one
        if isinstance(swapped, dict):
            result[key] = copy.deepcopy(swapped)
        elif swapped is not None:
            through[f"{key}:0"] = swapped
    for one in result.values():
        for name, value in one["inputs"].items():
            while isinstance(value, list) and f"{value[0]}:{value[1]}" in through:
                value = through[f"{value[0]}:{value[1]}"]
            one["inputs"][name] = value
    return result


def make_files(base: Path) -> None:
    """ControlLoRAs, a LoRA and a picture for the small checkpoints, in a server's folder."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(4)
    (base / "models" / "controlnet").mkdir(parents=True, exist_ok=True)
    sd15: dict[str, Any] = {
        "num_res_blocks": [1, 1],
        "channel_mult": (1, 2),
        "transformer_depth": [1, 1],
        "num_heads": 8,
    }
    sd15 |= {"transformer_depth_middle": 1, "context_dim": 768}
    sdxl: dict[str, Any] = {
        "num_res_blocks": [2] * 3,
        "channel_mult": (1, 1, 1),
        "transformer_depth": [0, 0, 2, 2, 10, 10],
    }
    sdxl |= {"transformer_depth_middle": 10, "context_dim": 2048, "num_heads": -1, "num_head_channels": 64}
    sdxl |= {"adm_in_channels": 2816, "num_classes": "sequential", "use_linear_in_transformer": True}
    for name, config in ((CONTROL, sd15), (LARGE["control"], sdxl)):
        save_file(_control_lora(config, generator), base / "models" / "controlnet" / name)
    (base / "models" / "loras").mkdir(parents=True, exist_ok=True)
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
    rank = {"lora_up": (640, 2), "lora_down": (2, 640)}
    lora = {f"{name}.{part}.weight": torch.randn(shape, generator=generator) * 0.2 for part, shape in rank.items()}
    save_file(lora, base / "models" / "loras" / LORA)
    pixels = (torch.rand(64, 64, 3, generator=generator) * 255).byte().numpy()
    Image.fromarray(pixels).save(base / "input" / PICTURE)


def _control_lora(config: dict[str, Any], generator: Any) -> dict[str, Any]:
    """Without low-rank parts: what it has of its own, beside the model's weights."""
    import comfy.cldm.cldm
    import comfy.ops
    import torch

    with torch.device("meta"):
        net = comfy.cldm.cldm.ControlNet(
            **{"image_size": 32, "in_channels": 4, "model_channels": 320, "hint_channels": 3, "dtype": torch.float32},
            **{"use_spatial_transformer": True, "legacy": False, "operations": comfy.ops.disable_weight_init},
            **config,
        )
    own = ("input_hint_block", "zero_convs", "middle_block_out")
    weights = {
        name: torch.randn(value.shape, generator=generator) * 0.02
        for name, value in net.state_dict().items()
        if name.startswith(own)
    }
    return {**weights, "lora_controlnet": torch.zeros(1)}


def old_server(environment: Environment) -> Any:
    """A server on which nothing new is compiled, with the small files."""
    name = f"old{os.environ.get('PYTEST_XDIST_WORKER', '')}"  # the small files are made anew for each server
    base = environment.cache / "e2e" / name
    for folder in ("models", "input"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    make_files(base)
    if "ONEDIFF_TEST_ALL" in os.environ and SHARED.is_dir():
        for model in ("sdxl_narrow", "svd_narrow"):
            (base / "models" / "checkpoints").mkdir(exist_ok=True)
            link_file(standin(environment, model), base / "models" / "checkpoints" / f"{model}.safetensors")
    return start(environment, name, variables={"ONEDIFF_COMPILE_SECONDS": "0"})


def small(prompt: Prompt) -> Prompt:
    """At a size and with steps for a CPU."""
    for one in prompt.values():
        for name, value in (("width", 64), ("height", 64), ("batch_size", 1), ("steps", 2), ("video_frames", 3)):
            if name in one["inputs"]:
                one["inputs"][name] = value
    return prompt


def pictures(server: Server, prompt: Prompt) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first picture of each output node that saves some, with all its frames, and the records, by node."""
    entry = server.run(prompt)
    assert error_of(entry) is None
    found = {}
    for key, output in entry["outputs"].items():
        if output.get("images") and prompt[key]["class_type"] in ("PreviewImage", "SaveImage", "SaveAnimatedWEBP"):
            data = server.images({"outputs": {key: output}})[0]
            frames = ImageSequence.all_frames(Image.open(io.BytesIO(data)))
            found[key] = numpy.concatenate([numpy.asarray(frame.convert("RGB")) for frame in frames]).astype(int)
    return found, {key: output["onediff"][0] for key, output in entry["outputs"].items() if output.get("onediff")}


def picture(server: Server, prompt: Prompt) -> tuple[Any, dict[str, Any]]:
    """The only picture, and the records by node."""
    found, records = pictures(server, prompt)
    (pixels,) = found.values()
    return pixels, records


def same_pictures(found: dict[str, Any], expected: dict[str, Any], records: dict[str, Any]) -> None:
    """The same to the last bit; where a node says that it computed only approximately, one of them is only near it."""
    differences = {key: abs(pixels - expected[key]).mean() for key, pixels in found.items()}
    assert all(expected[key].std() > 1 for key in found)
    if any((record["approximate"] or {}).get("steps") for record in records.values()):
        assert max(differences.values()) > 0
        assert all(difference < expected[key].std() / 2 for key, difference in differences.items()), differences
    else:
        assert not any(differences.values()), differences


def equal_to_plain(server: Server, prompt: Prompt) -> None:
    """Runs a prompt with old nodes, and the same with plain ones."""
    expected, _ = pictures(server, without_old(prompt))
    found, records = pictures(server, prompt)
    assert found.keys() == expected.keys() and found
    same_pictures(found, expected, records)
    assert records and all(record["state"] != "failed" for record in records.values())
