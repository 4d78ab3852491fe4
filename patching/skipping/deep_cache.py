"""DeepCache as a wrapper of a model: which steps are full, and how far the others are off."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..wrappers import ModelCall, ModelWrapper
from .unet import Deep, depth_of, is_unet


@dataclass(frozen=True)
class CacheSettings:
    """What a workflow asks for. From ``start`` to ``end``, in thousandths of the noise schedule and 0 where it begins,
    the first of each ``interval`` steps is full; all others are. ``layer`` and ``block``: see ``depth_of``."""

    interval: int = 3
    layer: int = 0
    block: int = 1
    start: int = 0
    end: int = 1000


@dataclass
class _During:
    """One sampling: its noise level, how many steps were taken, which of them left blocks out, the place of the present
    one since the last that was full for another reason, and what the deep blocks gave, by call. ``difference`` and
    ``size`` are sums of squares."""

    sigma: float | None = None
    steps: int = 0
    skipped: list[int] = field(default_factory=list)
    place: int = -1
    full: bool = True
    deep: dict[Hashable, Deep] = field(default_factory=dict)
    measures: tuple[int, ...] | None = None
    difference: float = 0.0
    size: float = 0.0


class DeepCache(ModelWrapper):
    """Leaves deep blocks out of some steps. ``tell`` is called at the end of each sampling with what a record has as
    ``approximate``.

    How far that is off is measured once for each size of picture: the first step that leaves blocks out is run in full
    too.
    """

    order = 2  # within what compiles: it knows which blocks ran

    def __init__(self, settings: CacheSettings, tell: Callable[[dict[str, Any]], None]):
        self._settings, self._tell = settings, tell
        self._during = _During()
        self._off: dict[tuple[int, ...], float] = {}

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of one whole sampling (``outer_sample``)."""
        during = self._during = _During()
        try:
            return executor(*args, **kwargs)
        finally:
            self._during = _During()
            if during.measures is not None and during.size:
                self._off[during.measures] = (during.difference / during.size) ** 0.5
            if during.steps:
                off = self._off.get(during.measures or ())
                self._tell({"by": "DeepCache", "off": off, "steps": len(during.skipped), "of": during.steps})

    def around(self, call: ModelCall) -> Any:
        model = call.executor.class_obj
        unet, during = model.diffusion_model, self._during
        if not is_unet(unet):
            return call()
        self._note_step(model, float(call.t.max()))
        depth, key = depth_of(unet, self._settings.layer, self._settings.block), _same(call)
        deep = during.deep.get(key)
        if deep is None or during.full:
            deep = during.deep[key] = Deep()
            with deep.kept(unet, depth):
                return call()
        with deep.left_out(unet, depth):
            result = call()
        if during.steps not in during.skipped:
            during.skipped.append(during.steps)
        if during.skipped == [during.steps]:
            self._measure(call, result)
        return result

    def _note_step(self, model: Any, sigma: float) -> None:
        """A sampler may call the model several times in a step, and in each for several prompts."""
        during = self._during
        if sigma == during.sigma:
            return
        if during.sigma is None or sigma > during.sigma:
            during.place = -1
        during.sigma = sigma
        during.steps += 1
        timestep = float(model.model_sampling.timestep(torch.tensor(sigma)))
        is_inside = 1000 - self._settings.end <= timestep <= 1000 - self._settings.start
        during.place = during.place + 1 if is_inside else -1
        during.full = not is_inside or during.place % self._settings.interval == 0
        if during.full:
            during.deep.clear()

    def _measure(self, call: ModelCall, result: torch.Tensor) -> None:
        during = self._during
        during.measures = tuple(call.x.shape[1:])
        if during.measures not in self._off:
            exact = call().float()
            during.difference += float((result.float() - exact).square().sum())
            during.size += float(exact.square().sum())


def _same(call: ModelCall) -> Hashable:
    """What calls must share to be given each other's deep features: prompts, size, and whatever changes attention, as
    guidance by perturbed attention does for a call of its own."""
    prompts = call.options.get("uuids") or call.options.get("cond_or_uncond") or ()
    kinds = [call.options.get(name) or {} for name in ("patches", "patches_replace")]
    acting = tuple((name, len(found)) for kind in kinds for name, found in kind.items())
    return tuple(prompts), tuple(call.x.shape), call.control is not None, acting
