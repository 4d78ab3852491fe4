"""Weights that ComfyUI casts, moves or patches while a layer runs: partial loading and dynamic VRAM.

What a layer does for that would be part of the compiled code, and cost a compile for each change of a flag, a function
or a LoRA's strength. So it is done before the block runs: the layer is given the weight that it would compute with, and
its flags say that there is nothing to do. Compiled code is then the same as with the model fully loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

Weights = list[tuple[torch.Tensor, torch.Tensor | None]]

#: Attributes or parameters of a layer, the name of one, and its value before it was changed.
Before = tuple[dict[str, Any], str, Any]

#: The host's part: weight and bias of each layer, patched, on a device, while its context is open. In a dtype, or with
#: None as they are stored.
ResolveWeights = Callable[[list[nn.Module], torch.device, torch.dtype | None], AbstractContextManager[Weights]]

#: ComfyUI's attributes of a layer that decide what it does to its weights. ``_v`` is a place in dynamic VRAM, and
#: ``_v_weight`` and ``_v_bias`` are the weights that are there.
_FLAG, _FLAG_BEFORE, _FUNCTIONS, _DYNAMIC = "comfy_cast_weights", "prev_comfy_cast_weights", "weight_function", "_v"
_BIAS_FUNCTIONS, _THERE = "bias_function", {"weight": "_v_weight", "bias": "_v_bias"}

_missing = object()


class CastWeights:
    """The layers of a block whose weights ComfyUI may cast. All of it runs before each run of each block."""

    def __init__(self, block: nn.Module):
        self._layers = [_Layer(module) for module in block.modules() if hasattr(module, _FLAG)]

    @property
    def pending(self) -> bool:
        """Whether any weight is cast, moved or patched while the block runs."""
        return any([layer.is_pending() for layer in self._layers])

    @property
    def flagged(self) -> bool:
        """Whether any layer has a flag of its own. ComfyUI leaves it on a layer that was cast once, and Dynamo would
        compile anew for it."""
        return any([_FLAG in layer.state for layer in self._layers])

    @property
    def in_dynamic_vram(self) -> bool:
        """Whether ComfyUI's dynamic VRAM looks after weights of the block."""
        return any(_DYNAMIC in layer.state for layer in self._layers)

    @property
    def patched(self) -> bool:
        """Whether any weight is patched when its layer runs."""
        return any([layer.is_patched() for layer in self._layers])

    def moves(self, device: torch.device) -> bool:
        """Whether weights come from elsewhere, or are patched, each time that the block runs. What is in dynamic VRAM
        stays there while nothing else needs the room."""
        return any(_DYNAMIC not in layer.state and layer.changes(device) for layer in self._layers)

    def hindrance(self) -> str | None:
        """Why weights cannot be resolved before the block runs, None when they can."""
        for layer in self._layers:
            weight = layer.weight
            if type(weight) not in (nn.Parameter, torch.Tensor, type(None)) and layer.is_pending():
                return f"its weights are {type(weight).__name__}s and only partly loaded."
        return None

    def dtype(self, computes_in: torch.dtype) -> torch.dtype | None:
        """What weights are handed over in: as stored (None), unless one that is stored in another dtype than the model
        computes in is patched. Then all of those are, so that there is one compiled variant more and not many."""
        return computes_in if any([layer.is_patched() and layer.casts_always() for layer in self._layers]) else None

    @contextmanager
    def resolved(
        self, resolve: ResolveWeights, device: torch.device, dtype: torch.dtype | None = None
    ) -> Iterator[None]:
        """For a while the layers hold what they compute with. Afterwards everything is as it was, also after an
        error; what was made for it is freed."""
        stored, cast = [], []
        for layer in self._layers:
            if dtype is not None and layer.casts_always():
                cast.append(layer)
            elif layer.changes(device):
                stored.append(layer)
        with _weights(resolve, stored, device, None) as as_stored, _weights(resolve, cast, device, dtype) as as_cast:
            before: list[Before] = []
            try:
                for layer, (weight, bias) in zip([*stored, *cast], [*as_stored, *as_cast], strict=True):
                    layer.hold(weight, bias, before)
                for layer in self._layers:
                    layer.drop_flags(before)
                del as_stored[:], as_cast[:]
                yield
            finally:
                for attributes, name, value in reversed(before):
                    if value is _missing:
                        attributes.pop(name, None)
                    else:
                        attributes[name] = value


class _Layer:
    """One layer, and the parameters that were made of what it has in dynamic VRAM, which is no memory of this
    object's."""

    __slots__ = ("_made", "casts", "module", "of_class", "parameters", "state")

    def __init__(self, module: nn.Module):
        self.module: Any = module
        self.state = module.__dict__
        self.parameters = module._parameters
        self.casts = getattr(type(module), _FLAG)  # as ComfyUI made the class, whatever the layer's own flag says
        self.of_class = tuple(getattr(type(module), name, ()) for name in (_FUNCTIONS, _BIAS_FUNCTIONS))
        self._made: dict[str, tuple[torch.Tensor, nn.Parameter]] = {}

    @property
    def weight(self) -> Any:
        weight = self.parameters.get("weight", _missing)  # a tenth of the time that the module takes to find it
        return self.module.weight if weight is _missing else weight

    def is_patched(self) -> bool:
        weight, bias = self.of_class
        return bool(self.state.get(_FUNCTIONS, weight) or self.state.get(_BIAS_FUNCTIONS, bias))

    def is_pending(self) -> bool:
        """Whether the layer casts, moves or patches its weights when it runs."""
        state = self.state
        return (
            _DYNAMIC in state
            or _FLAG_BEFORE in state
            or state.get(_FLAG, self.casts) is not self.casts
            or self.is_patched()
        )

    def changes(self, device: torch.device) -> bool:
        """Whether the layer computes with other weights than it holds."""
        weight = self.weight
        return weight is not None and (_DYNAMIC in self.state or self.is_patched() or weight.device != device)

    def casts_always(self) -> bool:
        """Whether it casts its weights to the dtype of its input also when the model is fully loaded."""
        return bool(self.casts) and isinstance(self.weight, torch.Tensor) and self.weight.is_floating_point()

    def hold(self, weight: torch.Tensor, bias: torch.Tensor | None, before: list[Before]) -> None:
        """Gives it weights that need nothing done to them, and notes in ``before`` what was there."""
        parameters, state = self.parameters, self.state
        before.append((parameters, "weight", parameters.get("weight", _missing)))
        parameters["weight"] = self._parameter("weight", weight)
        if bias is not None:
            before.append((parameters, "bias", parameters.get("bias", _missing)))
            parameters["bias"] = self._parameter("bias", bias)
        if self.is_patched():
            for name in (_FUNCTIONS, _BIAS_FUNCTIONS):
                before.append((state, name, state.get(name, _missing)))
                state[name] = []

    def drop_flags(self, before: list[Before]) -> None:
        """Takes off what says that there is something to do."""
        state = self.state
        for name in (_FLAG, _DYNAMIC):
            if name in state:
                before.append((state, name, state.pop(name)))

    def _parameter(self, name: str, tensor: torch.Tensor) -> nn.Parameter:
        """A tensor as a parameter: made once for what stays in dynamic VRAM."""
        if self.state.get(_THERE[name]) is not tensor:
            return nn.Parameter(tensor, requires_grad=False)
        kept = self._made.get(name)
        if kept is None or kept[0] is not tensor:
            kept = self._made[name] = (tensor, nn.Parameter(tensor, requires_grad=False))
        return kept[1]


def _weights(
    resolve: ResolveWeights, layers: list[_Layer], device: torch.device, dtype: torch.dtype | None
) -> AbstractContextManager[Weights]:
    """What the host has for these layers, of which there may be none."""
    return resolve([layer.module for layer in layers], device, dtype) if layers else nullcontext([])
