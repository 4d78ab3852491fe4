"""What is measured: the models, the ways to run them, and one sitting with changes that people make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

#: This pack as it comes, and with ``keep_faster`` off, so that compiled steps are timed in any case.
AS_IT_COMES, ALWAYS_COMPILED = "OneDiff Compile", "OneDiff Compile, only if faster off"

#: In this order: the last one raises a limit of Dynamo for the whole process, as the packs that do so.
WAYS = ("uncompiled", "TorchCompileModel", AS_IT_COMES, ALWAYS_COMPILED, "block by block")

#: ComfyUI's flags, the same for all ways.
FLAGS = ("--use-pytorch-cross-attention",)


@dataclass(frozen=True)
class Model:
    """A stand-in with random weights, and how long it is sampled.

    ``latent`` is the node of the empty latent; ``width`` and ``pooled`` are the channels of the prompts, ``first`` the
    steps of the first sampling, ``steps`` and ``rounds`` those of the step times. All of it is measured ``repeats``
    times, each on a server of its own.
    """

    name: str
    label: str
    latent: str
    width: int
    pooled: int
    size: int = 256
    batch: int = 1
    cfg: float = 1.0
    first: int = 2
    steps: int = 3
    rounds: int = 3
    repeats: int = 1
    sitting: bool = False


FLUX: dict[str, Any] = {"latent": "EmptySD3LatentImage", "width": 768, "pooled": 768}
UNET: dict[str, Any] = {"latent": "EmptyLatentImage", "cfg": 5.0}

CPU = (
    Model("flux_small", "Flux, small (9 M)", **FLUX, first=4, steps=12, repeats=3, sitting=True),
    Model("wan_small", "Wan 2.1, small (11 M), 9 frames", "EmptyHunyuanLatentVideo", 4096, 768, first=4, steps=8,
          sitting=True),
    Model("sd15_small", "SD 1.5, small (0.1 B)", **{**UNET, "cfg": 1.0}, width=768, pooled=768, first=4, steps=4,
          sitting=True),
    Model("flux_mid", "Flux, 0.3 B", **FLUX, first=3, steps=5),
    Model("sdxl_vega", "SDXL's widths, 2 + 1 blocks deep (0.7 B)", **UNET, width=2048, pooled=1280, steps=2),
    Model("sd15", "SD 1.5, full size (0.9 B)", **UNET, width=768, pooled=768, steps=2),
)  # fmt: skip

CUDA = (
    Model("sd15", "SD 1.5, full size (0.9 B), 512²", **UNET, width=768, pooled=768, size=512, first=8, steps=12),
    Model("sdxl", "SDXL, full size (2.6 B), 1024², batch 2", **UNET, width=2048, pooled=1280, size=1024, batch=2,
          first=8, steps=8),
    Model("flux_small", "Flux, small (9 M)", **FLUX, first=8, steps=12, sitting=True),
    Model("flux", "Flux, full size (12 B), 1024²", **{**FLUX, "width": 4096}, size=1024, first=8, steps=6),
    Model("wan_small", "Wan 2.1, small (11 M), 9 frames", "EmptyHunyuanLatentVideo", 4096, 768, first=8, steps=8,
          sitting=True),
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One sampling, as somebody sets it in the workflow."""

    checkpoint: str
    width: int
    height: int
    batch: int
    cfg: float
    tokens: int = 77
    lora: float | None = None


def usual(model: Model) -> Setting:
    """What the first sampling and the step times run with."""
    return Setting(model.name, model.size, model.size, model.batch, model.cfg)


def sitting(model: Model) -> Iterator[tuple[str, Setting]]:
    """The changes after the first sampling, one after the other."""
    now = usual(model)
    for change, values in (
        ("larger", {"width": 320, "height": 320}),
        ("wider", {"width": 448, "height": 256}),
        ("231 tokens", {"tokens": 231}),
        ("LoRA added", {"lora": 1.0}),
        ("LoRA weaker", {"lora": 0.5}),
        ("LoRA removed", {"lora": None}),
        ("other checkpoint", {"checkpoint": f"{model.name}_other"}),
        ("back", {"checkpoint": model.name}),
        ("CFG on", {"cfg": 5.0}),
        ("batch 4", {"batch": 4}),
    ):
        now = replace(now, **values)
        yield change, now


def prompt(model: Model, way: str, setting: Setting, steps: int, seed: int, key: str) -> dict[str, Any]:
    """The API prompt of one sampling: ComfyUI's loader and sampler, and one compile node or none."""
    sizes = {"width": setting.width, "height": setting.height, "batch_size": setting.batch}
    if model.latent == "EmptyHunyuanLatentVideo":
        sizes["length"] = 9
    text = {"tokens": setting.tokens, "width": model.width, "pooled": model.pooled}
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "unet": ("UNETLoader", {"unet_name": f"{setting.checkpoint}.safetensors", "weight_dtype": "default"}),
        "text": ("BenchmarkConditioning", {**text, "seed": 1}),
        "empty": ("BenchmarkConditioning", {**text, "seed": 2}),
        "latent": (model.latent, sizes),
    }
    last = ["unet", 0]
    if setting.lora is not None:
        lora = {"lora_name": f"{model.name}_lora.safetensors", "strength_model": setting.lora}
        nodes["lora"] = ("LoraLoaderModelOnly", {"model": last, **lora})
        last = ["lora", 0]
    if way != "uncompiled":
        nodes["compile"] = compile_node(way, last)
        last = ["compile", 0]
    sampler = {"seed": seed, "steps": steps, "cfg": setting.cfg, "sampler_name": "euler", "scheduler": "normal"}
    inputs = {"positive": ["text", 0], "negative": ["empty", 0], "latent_image": ["latent", 0], "denoise": 1.0}
    nodes["sampler"] = ("KSampler", {"model": last, **inputs, **sampler})
    nodes["keep"] = ("BenchmarkKeep", {"latent": ["sampler", 0], "key": key, "way": way})
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def compile_node(way: str, model: list) -> tuple[str, dict[str, Any]]:
    if way == "TorchCompileModel":
        return "TorchCompileModel", {"model": model, "backend": "inductor"}
    if way == "block by block":
        return "BenchmarkBlockwise", {"model": model}
    settings = {"backend": "inductor", "scope": "blocks", "effort": "fast start", "if_unfit": "run uncompiled"}
    return "OneDiffCompile", {"model": model, **settings, "keep_faster": way == AS_IT_COMES}
