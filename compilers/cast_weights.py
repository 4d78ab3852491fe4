"""Weights that ComfyUI casts, moves or patches while a layer runs: partial loading and dynamic VRAM.

What a layer does for that would be part of the compiled code, and cost a compile for each change of a flag, a function
or a LoRA's strength. So it is done before the block runs: the layer is given the weight that it would compute with, and
its flags say that there is nothing to do. Compiled code is then the same as with the model fully loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

Weights = list[tuple[torch.Tensor, torch.Tensor | None]]

#: The host's part: weight and bias of each layer, patched, on a device, while its context is open. In a dtype, or with
#: None as they are stored.
ResolveWeights = Callable[[list[nn.Module], torch.device, torch.dtype | None], AbstractContextManager[Weights]]

#: ComfyUI's attributes of a layer that decide what it does to its weights. ``_v`` is a place in dynamic VRAM, and
#: ``_v_weight`` and ``_v_bias`` are the weights that are there.
_FLAG, _FLAG_BEFORE, _FUNCTIONS, _DYNAMIC = "comfy_cast_weights", "prev_comfy_cast_weights", "weight_function", "_v"
_BIAS_FUNCTIONS, _THERE = "bias_function", {"weight": "_v_weight", "bias": "_v_bias"}

_missing = object()


class CastWeights:
    """The layers of a block whose weights ComfyUI may cast."""

    def __init__(self, block: nn.Module):
        self._layers = [(layer, layer.__dict__) for layer in block.modules() if hasattr(layer, _FLAG)]
        self._parameters: dict[tuple[nn.Module, str], tuple[torch.Tensor, nn.Parameter]] = {}

    @property
    def pending(self) -> bool:
        """Whether any weight is cast, moved or patched while the block runs."""
        return any(_pending(layer, state) for layer, state in self._layers)

    @property
    def flagged(self) -> bool:
        """Whether any layer has a flag of its own. ComfyUI leaves it on a layer that was cast once, and Dynamo would
        compile anew for it."""
        return any([_FLAG in state for _, state in self._layers])

    @property
    def in_dynamic_vram(self) -> bool:
        """Whether ComfyUI's dynamic VRAM looks after weights of the block."""
        return any(_DYNAMIC in state for _, state in self._layers)

    def moves(self, device: torch.device) -> bool:
        """Whether weights come from elsewhere, or are patched, each time that the block runs. What is in dynamic VRAM
        stays there while nothing else needs the room."""
        return any(_DYNAMIC not in state and _changes(layer, state, device) for layer, state in self._layers)

    def hindrance(self) -> str | None:
        """Why weights cannot be resolved before the block runs, None when they can."""
        for layer, state in self._layers:
            weight = layer.weight
            if weight is not None and _pending(layer, state) and type(weight) not in (nn.Parameter, torch.Tensor):
                return f"its weights are {type(weight).__name__}s and only partly loaded."
        return None

    def dtype(self, computes_in: torch.dtype) -> torch.dtype | None:
        """What weights are handed over in: as stored (None), unless one that is stored in another dtype than the model
        computes in is patched. Then all of those are, so that there is one compiled variant more and not many."""
        patched = (layer for layer, state in self._layers if layer.weight_function or layer.bias_function)
        return computes_in if any(_casts_always(layer) for layer in patched) else None

    @contextmanager
    def resolved(
        self, resolve: ResolveWeights, device: torch.device, dtype: torch.dtype | None = None
    ) -> Iterator[None]:
        """For a while the layers hold what they compute with. Afterwards everything is as it was, also after an
        error; what was made for it is freed."""
        cast = [] if dtype is None else [layer for layer, _ in self._layers if _casts_always(layer)]
        stored = [layer for layer, state in self._layers if _changes(layer, state, device) and layer not in cast]
        before: list[tuple[dict[str, Any], str, Any]] = []

        def put(state: dict[str, Any], name: str, value: Any) -> None:
            before.append((state, name, state.get(name, _missing)))
            state[name] = value

        with resolve(stored, device, None) as as_stored, resolve(cast, device, dtype) as as_computed:
            try:
                for layer, (weight, bias) in zip([*stored, *cast], [*as_stored, *as_computed], strict=True):
                    put(layer._parameters, "weight", self._parameter(layer, "weight", weight))
                    if bias is not None:
                        put(layer._parameters, "bias", self._parameter(layer, "bias", bias))
                    put(layer.__dict__, _FUNCTIONS, [])
                    put(layer.__dict__, _BIAS_FUNCTIONS, [])
                for _, state in self._layers:
                    for name in (_FLAG, _DYNAMIC):
                        if name in state:
                            before.append((state, name, state.pop(name)))
                del as_stored[:], as_computed[:]
                yield
            finally:
                for state, name, value in reversed(before):
                    if value is _missing:
                        state.pop(name, None)
                    else:
                        state[name] = value

    def _parameter(self, layer: nn.Module, name: str, tensor: torch.Tensor) -> nn.Parameter:
        """A tensor as a parameter: made once for what stays in dynamic VRAM, which is no memory of this object's."""
        if layer.__dict__.get(_THERE[name]) is not tensor:
            return nn.Parameter(tensor, requires_grad=False)
        kept = self._parameters.get((layer, name))
        if kept is None or kept[0] is not tensor:
            kept = self._parameters[layer, name] = (tensor, nn.Parameter(tensor, requires_grad=False))
        return kept[1]


def _changes(layer: nn.Module, state: dict[str, Any], device: torch.device) -> bool:
    """Whether a layer computes with other weights than it holds."""
    weight = layer.weight
    if weight is None:
        return False
    return bool(layer.weight_function or layer.bias_function or _DYNAMIC in state or weight.device != device)


def _pending(layer: nn.Module, state: dict[str, Any]) -> bool:
    return bool(
        layer.weight_function
        or layer.bias_function
        or _FLAG_BEFORE in state
        or _DYNAMIC in state
        or state.get(_FLAG, getattr(type(layer), _FLAG)) is not getattr(type(layer), _FLAG)
    )


def _casts_always(layer: nn.Module) -> bool:
    """Whether the layer casts its weights to the dtype of its input also when the model is fully loaded."""
    weight = layer.weight
    return bool(getattr(type(layer), _FLAG)) and isinstance(weight, torch.Tensor) and weight.is_floating_point()
