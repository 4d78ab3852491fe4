"""What the compile node is about to ask of the compiler, read from ComfyUI's ModelPatcher."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import nn

from ..checks.options import Asked, weight_bytes
from ..compilers import BACKENDS, Settings
from ..compilers.blocks.regions import find_regions
from ..processors import find_sites

#: States of ComfyUI's memory management in which a model is loaded as a whole.
_WHOLE = tuple(comfy.model_management.VRAMState[name] for name in ("DISABLED", "HIGH_VRAM", "SHARED"))


def asked(patcher: Any, settings: Settings) -> Asked:
    """The facts that the rules on options look at, of a MODEL. It is not loaded for it."""
    model = patcher.model
    diffusion_model = patcher.get_model_object("diffusion_model")
    casts = model.manual_cast_dtype is not None
    return asked_of(diffusion_model, patcher, model.get_dtype_inference(), settings, casts)


def asked_of(
    module: nn.Module, patcher: Any, dtype: torch.dtype, settings: Settings, casts_weights: bool = False
) -> Asked:
    """The same of any module that a ModelPatcher loads. ``dtype`` is what it computes in."""
    device = patcher.load_device
    nvidia = device.type == "cuda" and torch.version.hip is None and torch.cuda.is_available()
    asked_for = BACKENDS.get(settings.backend)
    dynamic = patcher.is_dynamic() if hasattr(patcher, "is_dynamic") else False
    return Asked(
        path="",
        module=module,
        backend=settings.backend,
        scope=settings.scope,
        effort=settings.effort,
        device=device,
        dtype=dtype,
        regions=len(find_regions(module, find_sites(module), settings.scope)),
        weight_dtypes=weight_bytes(module),
        capability=torch.cuda.get_device_capability(device) if nvidia else None,
        multiprocessors=torch.cuda.get_device_properties(device).multi_processor_count if nvidia else None,
        casts_weights=casts_weights,
        offloaded_bytes=0 if dynamic else offloaded_bytes(patcher),
        moves_weights=dynamic,
        compiles_for=asked_for.devices if asked_for else None,
        triton=(asked_for or next(iter(BACKENDS.values()))).uses_triton,
    )


def offloaded_bytes(patcher: Any) -> int:
    """How much of the weights will stay off the device, as ComfyUI will decide when it loads the model: all that is
    beyond the device's memory less what a step needs. ComfyUI may use more for a large picture."""
    management = comfy.model_management
    if management.vram_state in _WHOLE or patcher.load_device.type == "cpu":
        return 0
    room = management.get_total_memory(patcher.load_device) - management.minimum_inference_memory()
    if management.vram_state is management.VRAMState.NO_VRAM or room < 0:
        room = 0
    return max(0, int(patcher.model_size() - room))
