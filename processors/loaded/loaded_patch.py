"""The sites at which one node computes attention with processors whose weights come from a file."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...memo import shared
from ...patching.calls import options_of, options_position, with_options
from ...patching.foreign import OVERRIDE
from ...patching.forwards import swapped_attributes
from ...patching.inside import modules_in, tensors_in
from ...patching.wrappers import ModelCall
from ..attention_patch import AttentionPatch
from ..authored.adapt import written
from ..authored.recipe import foreign_to
from ..site_calls import Because
from .added import without_added

#: The attribute of a site's module that holds how far the file's processor takes the place of its own attention.
STRENGTH = "onediff_strength"


class Weights(nn.ModuleList):
    """Processors with weights, for ComfyUI's memory management: what several sites share is there once, and layers of
    the model that a processor holds are not. ``theirs`` are the ids of those, and of their tensors."""

    theirs: frozenset[int] = frozenset()

    def __init__(self, made: Iterable[nn.Module], theirs: frozenset[int]):
        super().__init__(made)
        self.theirs = theirs

    def named_modules(self, memo: Any = None, prefix: str = "", remove_duplicate: bool = True) -> Any:
        return modules_in(self, prefix, set(self.theirs))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        return tensors_in(self, self.theirs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        return {name: tensor.detach() for name, tensor in self.tensors()}

    def _apply(self, fn: Callable, recurse: bool = True) -> Weights:
        for module in self.modules():
            if module is not self:
                with _put_aside(module, self.theirs):
                    nn.Module._apply(module, fn, recurse=False)
        return self


@contextmanager
def _put_aside(module: nn.Module, theirs: frozenset[int]) -> Iterator[None]:
    """While it is open, a module does not hold the model's own tensors."""
    stores: list[dict[str, Any]] = [module._parameters, module._buffers]
    held = [(store, name, one) for store in stores for name, one in store.items() if id(one) in theirs]
    for store, name, _ in held:
        store[name] = None
    try:
        yield
    finally:
        for store, name, one in held:
            store[name] = one


class LoadedPatch(AttentionPatch):
    """``strength`` mixes what the sites give without (0) and with their processors (1); other values go on from there.
    ``weights`` are the processors, for ComfyUI's memory management; None where they have none, or where each sampling
    has processors of its own."""

    def __init__(self, strength: float, *args: Any, **kwargs: Any):
        self.strength = strength
        self._factor = torch.tensor(float(strength))
        super().__init__(*args, **kwargs)
        made = [written(one) for one in self.instances.all]
        weights = Weights(made, self._theirs())
        self.weights = weights if next(weights.tensors(), None) is not None else None

    def adds_nothing(self) -> Because | None:
        return "strength" if self.strength == 0 else None

    def _theirs(self) -> frozenset[int]:
        return frozenset[int]().union(*(foreign_to(self.processor, site) for site in self.sites))

    def _set_forwards(self) -> None:
        super()._set_forwards()
        if self.strength != 1:
            self.forwards = [
                (module, types.MethodType(mixing_forward(type(module).forward, _function(forward)), module))
                for module, forward in self.forwards
            ]

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        if self.weights is not None:
            self.weights.theirs = self._theirs()  # a LoRA may have put others in their place
        try:
            return super().sampling(executor, *args, **kwargs)
        finally:
            self._moved_back()

    def around(self, call: ModelCall) -> Any:
        if self.weights is not None:
            self._bring(call.x.device)
        factor = self._factor = self._factor.to(call.x.device)
        with swapped_attributes(STRENGTH, [(site.module, factor) for site in self.sites]):
            return super().around(call)

    _away: torch.device | None = None

    def _bring(self, device: torch.device) -> None:
        """Where ComfyUI has left them elsewhere, for want of memory, they are moved for the sampling."""
        assert self.weights is not None
        elsewhere = next((one.device for _, one in self.weights.tensors() if one.device != device), None)
        if elsewhere is not None:
            self._away = elsewhere
            self.weights.to(device)

    def _moved_back(self) -> None:
        if self._away is not None and self.weights is not None:
            self.weights.to(self._away)
            self._away = None


@shared
def mixing_forward(own: Callable, theirs: Callable) -> Callable:
    """A ``forward`` that mixes the class's own with a processor's."""
    position, superseded = options_position(own), vars(theirs).get("superseded")

    def forward_that_mixes(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        options = without_added(options_of((args, kwargs), position) or {})
        inputs = args, kwargs = with_options((args, kwargs), position, options)
        if superseded is not None:  # a session takes it for replaced at this site
            inputs = with_options(inputs, position, {k: v for k, v in options.items() if k != OVERRIDE})
        without = own(self, *inputs[0], **inputs[1])
        return without + self.onediff_strength.to(without.dtype) * (theirs(self, *args, **kwargs) - without)

    # Where nothing was superseded, a session is to bring ComfyUI's attention for the class's own forward.
    kept = ("keeps_state", "as_operator", "reader", *(["superseded"] if superseded is not None else []))
    forward_that_mixes.__dict__.update({name: value for name, value in vars(theirs).items() if name in kept})
    return forward_that_mixes


def _function(forward: Any) -> Callable:
    return forward.__func__
