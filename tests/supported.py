"""Every entry of ComfyUI's list of model families, built without weights as far as that goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.ops
import comfy.supported_models
import families
import models
import torch

META = torch.device("meta")

#: What the list does not say of families that have no stand-in.
SIZES: dict[str, dict[str, Any]] = {
    "SD21UnclipL": families.FAMILIES["SDXL"]().unet,
    "SD21UnclipH": families.FAMILIES["SDXL"]().unet,
    "SD_X4Upscaler": {
        **models.UNET,
        "num_res_blocks": [1, 1, 1, 1],
        "channel_mult": [1, 1, 1, 1],
        "transformer_depth": [1, 1, 1, 1],
        "transformer_depth_output": [1] * 8,
    },
    "GenmoMochi": {
        "use_t5": True,
        "qk_norm": True,
        "in_channels": 12,
        "hidden_size_x": 3072,  # a size that its block insists on
        "mlp_ratio_x": 4.0,
        "hidden_size_y": 1536,
        "num_heads": 24,
        "depth": 2,
        "learn_sigma": False,
    },
    "Anima": families.FAMILIES["Cosmos Predict 2"]().unet,
    "SeedVR2": {"norm_eps": 1e-5, "num_layers": 2, "mlp_type": "swiglu"},
}


@dataclass(frozen=True)
class Built:
    """One family's model on the meta device. ``how`` says from which settings; ``reason`` why there is none."""

    name: str
    model: Any = None
    how: str = ""
    reason: str = ""


def model_of(config: type, unet: dict[str, Any]) -> Any:
    """The model of a list entry with these settings, on the meta device."""
    settings = config({**unet, "dtype": torch.float32})
    settings.custom_operations = comfy.ops.disable_weight_init
    return settings.get_model({}, device=META)


def _attempts(config: Any, stand_ins: list[families.Family]) -> Iterator[tuple[str, type, dict[str, Any]]]:
    """Ways to build a family, the surest first: its stand-in, its own defaults, another family's stand-in with what
    the family's own list entry says."""
    own = config.unet_config
    for family in stand_ins:
        if family.config.__name__ == config.__name__:
            yield "its stand-in", family.config, family.unet
    if config.__name__ in SIZES:
        yield "sizes of the test", config, {**SIZES[config.__name__], **own}
    yield "its own defaults", config, own
    bases = [base.__name__ for base in config.__mro__]
    for family in sorted(stand_ins, key=lambda family: family.config.__name__ not in bases):
        kind = {name: own[name] for name in ("image_model", "audio_model", "stable_cascade_stage") if name in own}
        if kind.items() <= family.unet.items():
            yield f"the stand-in of {family.config.__name__}", config, {**family.unet, **own}
            yield f"the sizes of {family.config.__name__}", config, {**own, **family.unet}


def build(config: type, stand_ins: list[families.Family]) -> Built:
    """The model of one entry of the list, or the reason why it cannot be built."""
    reasons: dict[str, str] = {}
    for how, kind, unet in _attempts(config, stand_ins):
        try:
            model = model_of(kind, unet)
        except Exception as error:  # what a constructor lacks shows in any way
            reasons[how] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        return Built(config.__name__, model, how)
    return Built(config.__name__, reason=next(iter(reasons.values())))


def everything() -> list[Built]:
    """All entries of ``comfy.supported_models.models``."""
    stand_ins = [describe() for describe in families.FAMILIES.values()]
    return [build(config, stand_ins) for config in comfy.supported_models.models]
