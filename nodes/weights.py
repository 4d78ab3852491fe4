"""Weights of ComfyUI's layers as the layers would compute with them: moved to the device, cast, patched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import nn

try:  # dynamic VRAM, which older versions of ComfyUI do not have
    from comfy.model_prefetch import cleanup_prefetched_modules
    from comfy.ops import cast_modules_with_vbar
except ImportError:
    cast_modules_with_vbar = None


@contextmanager
def resolve_weights(
    layers: list[nn.Module], device: torch.device, dtype: torch.dtype | None
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor | None]]]:
    """Weight and bias of each layer, in ``dtype`` or, with None, in the dtype that the model is loaded in. They hold
    while the context is open: dynamic VRAM uses its memory again afterwards."""
    with _in_vram(layers, device):
        yield [_weights(layer, device, dtype) for layer in layers]


def _weights(layer: Any, device: torch.device, dtype: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    in_dtype = dtype or _loaded_dtype(layer.weight)
    bias_dtype = dtype or (in_dtype if layer.bias is None else _loaded_dtype(layer.bias))
    # Compiled code tells tensors of inference mode apart. Not offloadable: such weights share one buffer.
    with torch.no_grad(), torch.inference_mode(layer.weight.is_inference()):
        return comfy.ops.cast_bias_weight(layer, dtype=in_dtype, device=device, bias_dtype=bias_dtype)


def _loaded_dtype(weight: torch.Tensor) -> torch.dtype:
    """Dynamic VRAM loads a weight from its file, in whatever dtype it has there, at its first use."""
    return getattr(weight, "_model_dtype", None) or weight.dtype


@contextmanager
def _in_vram(layers: list[nn.Module], device: torch.device) -> Iterator[None]:
    """Brings layers that live in dynamic VRAM there, all at once, unless ComfyUI already did."""
    absent = [layer for layer in layers if hasattr(layer, "_v") and not hasattr(layer, "_prefetch")]
    if not absent or cast_modules_with_vbar is None or comfy.model_management.is_device_cpu(device):
        yield
        return
    stream = None
    try:
        stream = cast_modules_with_vbar(absent, None, device, None, True)
        comfy.model_management.sync_stream(device, stream)
        yield
    finally:
        if stream is not None:
            stream.wait_stream(comfy.model_management.current_stream(device))
        cleanup_prefetched_modules(absent)
