"""DeepCache as a wrapper of a model: which steps are full, and how far the others are off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..foreign import OVERRIDE, counted_patches
from ..wrappers import APPLY_MODEL, DIFFUSION_MODEL, KEY, ModelCall, ModelWrapper
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
    one since the last that was full for another reason, how many calls of each kind it had, and what the deep blocks
    gave, by call. ``difference`` and ``size`` are sums of squares."""

    sigma: float | None = None
    steps: int = 0
    skipped: list[int] = field(default_factory=list)
    place: int = -1
    full: bool = True
    calls: Counter[Hashable] = field(default_factory=Counter)
    deep: dict[Hashable, Deep] = field(default_factory=dict)
    difference: float = 0.0
    size: float = 0.0


class DeepCache(ModelWrapper):
    """Leaves deep blocks out of some steps. ``tell`` is called at the end of each sampling with what a record has as
    ``approximate``.

    How far that is off is measured in each sampling, in the second full step: it runs without the deep blocks too, with
    what they gave ``interval`` steps before, one more than in any step that goes by it.
    """

    order = 1  # around what compiles, which may make a call again

    def __init__(self, settings: CacheSettings, tell: Callable[[dict[str, Any]], None]):
        self._settings, self._tell = settings, tell
        self._during: _During | None = None

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of one whole sampling (``outer_sample``)."""
        during = self._during = _During()
        try:
            return executor(*args, **kwargs)
        finally:
            self._during = None
            if during.steps:
                off = (during.difference / during.size) ** 0.5 if during.size else None
                self._tell({"by": "DeepCache", "off": off, "steps": len(during.skipped), "of": during.steps})

    def around(self, call: ModelCall) -> Any:
        during, model = self._during, call.executor.class_obj
        unet = model.diffusion_model
        if during is None or not is_unet(unet):  # a node with a loop of its own says nothing of when it ends
            return call()
        self._note_step(during, model, float(call.t.max()))
        depth, same = depth_of(unet, self._settings.layer, self._settings.block), _same(call)
        during.calls[same] += 1
        key = (same, during.calls[same])
        before = during.deep.get(key)
        if before is None or during.full:
            return self._full(during, call, unet, depth, key)
        if during.steps not in during.skipped:
            during.skipped.append(during.steps)
        with before.left_out(unet, depth):
            return call()

    def _full(self, during: _During, call: ModelCall, unet: Any, depth: int, key: Hashable) -> Any:
        before, deep = during.deep.pop(key, None), Deep()
        without = None
        if before is not None and during.place == self._settings.interval > 1 and _can_run_again(call):
            with before.left_out(unet, depth):
                without = call()
        with deep.kept(unet, depth):
            result = call()
        if deep.is_known:
            during.deep[key] = deep
            if without is not None:
                during.difference += float((without.float() - result.float()).square().sum())
                during.size += float(result.float().square().sum())
        return result

    def _note_step(self, during: _During, model: Any, sigma: float) -> None:
        """A sampler may call the model several times in a step, and in each for several prompts."""
        if sigma == during.sigma:
            return
        if during.sigma is None or sigma > during.sigma:
            during.place = -1
        during.sigma = sigma
        during.steps += 1
        during.calls.clear()
        timestep = float(model.model_sampling.timestep(torch.tensor(sigma)))
        is_inside = 1000 - self._settings.end <= timestep <= 1000 - self._settings.start
        during.place = during.place + 1 if is_inside else -1
        during.full = not is_inside or during.place % self._settings.interval == 0
        if during.place <= 0:
            during.deep.clear()


def _same(call: ModelCall) -> Hashable:
    """What calls must share to be given each other's deep features: prompts, size, the frames of a long video, and
    whatever changes attention, as guidance by perturbed attention does for a call of its own. Several alike, as for
    tiles, go by their order."""
    options = call.options
    prompts = options.get("uuids") or options.get("cond_or_uncond") or ()
    frames = getattr(options.get("context_window"), "index_list", None) or ()
    return tuple(prompts), tuple(call.x.shape), tuple(frames), call.control is not None, counted_patches(options)


def _can_run_again(call: ModelCall) -> bool:
    """Whether nothing acts in a call that may count its calls, or keep something: other nodes' patches and wrappers,
    processors with state."""
    wrappers = call.options.get("wrappers") or {}
    around = [wrappers.get(kind) or {} for kind in (APPLY_MODEL, DIFFUSION_MODEL)]
    foreign = any(functions for kind in around for key, functions in kind.items() if key != KEY)
    patches = any(call.options.get(name) for name in ("patches", "patches_replace", OVERRIDE))
    ours = around[0].get(KEY) or []
    return not (foreign or patches or any(getattr(one, "keeps_state", False) for one in ours))
