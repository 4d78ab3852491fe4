"""Weights of ComfyUI's layers as the layers would compute with them: moved to the device, cast, patched."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import nn

try:  # dynamic VRAM, which older versions of ComfyUI do not have
    from comfy.model_prefetch import cleanup_prefetched_modules
    from comfy.ops import cast_modules_with_vbar
    from comfy_aimdo.model_vbar import vbar_fault, vbar_signature_compare, vbar_unpin
except ImportError:
    cast_modules_with_vbar = None

Weights = tuple[torch.Tensor, torch.Tensor | None]


@contextmanager
def resolve_weights(
    layers: list[nn.Module], device: torch.device, dtype: torch.dtype | None
) -> Iterator[list[Weights]]:
    """Weight and bias of each layer, in ``dtype`` or, with None, in the dtype that the model is loaded in. They hold
    while the context is open: dynamic VRAM uses its memory again afterwards."""
    with _in_vram(layers, device, dtype) as resident:
        yield [resident.get(layer) or _weights(layer, device, dtype) for layer in layers]


def _weights(layer: Any, device: torch.device, dtype: torch.dtype | None) -> Weights:
    in_dtype = dtype or _loaded_dtype(layer.weight)
    bias_dtype = dtype or (in_dtype if layer.bias is None else _loaded_dtype(layer.bias))
    # Compiled code tells tensors of inference mode apart. Not offloadable: such weights share one buffer.
    with torch.no_grad(), torch.inference_mode(layer.weight.is_inference()):
        return comfy.ops.cast_bias_weight(layer, dtype=in_dtype, device=device, bias_dtype=bias_dtype)


def _loaded_dtype(weight: torch.Tensor) -> torch.dtype:
    """Dynamic VRAM loads a weight from its file, in whatever dtype it has there, at its first use."""
    return getattr(weight, "_model_dtype", None) or weight.dtype


@contextmanager
def _in_vram(
    layers: list[nn.Module], device: torch.device, dtype: torch.dtype | None
) -> Iterator[dict[nn.Module, Weights]]:
    """Brings layers that live in dynamic VRAM there, all at once, unless ComfyUI already did. Hands out the weights of
    those that were there: asking ComfyUI for each takes Python so long that a fast GPU waits for it."""
    absent = [layer for layer in layers if "_v" in layer.__dict__ and "_prefetch" not in layer.__dict__]
    if not absent or cast_modules_with_vbar is None or comfy.model_management.is_device_cpu(device):
        yield {}
        return
    resident: dict[nn.Module, Weights] = {}
    brought: list[nn.Module] = []
    stream = None
    try:
        for layer in absent:
            weights = _resident(layer, dtype)
            if weights is None:
                brought.append(layer)
            else:
                resident[layer] = weights
        if brought:
            stream = cast_modules_with_vbar(brought, None, device, None, True)
            comfy.model_management.sync_stream(device, stream)
        yield resident
    finally:
        if stream is not None:
            stream.wait_stream(comfy.model_management.current_stream(device))
        _clean_up(brought)
        for layer in resident:
            vbar_unpin(layer._v)


def _clean_up(layers: list[nn.Module]) -> None:
    """Lets go of what was brought. Newer versions of ComfyUI also take the module that the layers are parts of, and let
    go of a place that they hold for all of it: there is none here."""
    if _takes_module_too(cleanup_prefetched_modules):
        cleanup_prefetched_modules(None, layers)
    else:
        cleanup_prefetched_modules(layers)


@lru_cache(maxsize=1)
def _takes_module_too(clean_up: Callable) -> bool:
    parameters = inspect.signature(clean_up).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters) > 1


def _resident(layer: Any, dtype: torch.dtype | None) -> Weights | None:
    """What a layer computes with, when that is in dynamic VRAM already, patched as it must be. Held there until it is
    unpinned."""
    state = layer.__dict__
    signature = vbar_fault(state["_v"])
    if signature is None:  # there is no room for it
        return None
    if vbar_signature_compare(signature, state.get("_v_signature")) and not _is_converted(layer, state, dtype):
        return state["_v_weight"], state["_v_bias"]
    vbar_unpin(state["_v"])
    return None


def _is_converted(layer: Any, state: dict[str, Any], dtype: torch.dtype | None) -> bool:
    """Whether a layer computes with something else than what is in dynamic VRAM for it."""
    if layer.weight_function or layer.bias_function:
        return True
    stored = state["_parameters"]
    for name, there in (("weight", state["_v_weight"]), ("bias", state["_v_bias"])):
        if there is not None and there.dtype != (dtype or _loaded_dtype(stored[name])):
            return True
    return False
