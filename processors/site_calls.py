"""Whether the processor of a patch takes part in a sampling, and at how many of its sites."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from ..patching.foreign import OVERRIDE
from ..patching.instead import UNKNOWN, StepCount, Takers, called_instead, calls_expected, named
from ..patching.wrappers import further_in
from .called_sites import noting
from .elsewhere import given_up_at, left_at

if TYPE_CHECKING:
    from .attention_patch import AttentionPatch

#: Why a processor changes nothing: a value that it was given, or no step lay where it acts.
Because = Literal["strength", "weight", "range", "mask", "no step"]

#: What took sites, where that is another node of this pack.
OWN: dict[str, str | None] = {"by": "Patch Attention Processors", "where": None}


class SiteCalls:
    """Of one sampling. What another node has compiled is not counted: a graph does not tell."""

    def __init__(self, patch: AttentionPatch, key: str, args: tuple = (), kwargs: dict[str, Any] | None = None):
        self.steps = StepCount(args, kwargs)
        self._patch_ref = weakref.ref(patch)  # it holds this, and modules of a model that must go when nobody uses it
        self._key = key
        self._calls = 0
        self._met: set[str] = set()
        self._reached: set[str] = set()
        self._counts: bool | None = None
        self._taken: list[dict[str, str | None]] = []  # what took all sites, one a call in which something did
        self._by_patches: set[str] = set()  # sites that patches further in take
        self._takers = Takers()
        #: Whether the result of the sampling has no NaN and no Inf.
        self.gave_numbers = True
        #: Calls that went to PyTorch's attention, because the processor fails in such; those in graphs aside.
        self.by_sdpa = 0
        #: Calls that stayed with ComfyUI's attention, because the processor cannot take such, by reason.
        self.left: Counter[str] = Counter()

    @property
    def _patch(self) -> AttentionPatch:
        patch = self._patch_ref()
        assert patch is not None
        return patch

    @property
    def reached(self) -> int | None:
        """Sites at which the processor was called; None where that was not counted."""
        return len(self._reached) if self._counts and self._calls else None

    @property
    def taken(self) -> dict[str, Any] | None:
        """The record's ``taken``: of how many sites the processor took the place in no call, and what computed there,
        where that is known; None when there is none, that was not counted, or ``unused`` says it of all."""
        others = {site.path for site in self._patch.sites} - self._met
        if not others or not self._counts or not self._met:
            return None
        by = OWN if others <= self._by_patches else self._takers.at(others)
        return {"sites": len(others), **(by if by == OWN or others.isdisjoint(self._by_patches) else UNKNOWN)}

    def have_reached(self, paths: Iterable[str]) -> None:
        """The sites are others from now on, and the model has called these of them."""
        self._reached = set(paths)
        self._met = set(self._reached)

    def unused(self, executor: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """The record's ``unused``, for a call of ``outer_sample``; None when the processor took part."""
        if not self._patch.sites or not calls_expected(args, kwargs):
            return None
        guider = getattr(executor, "class_obj", None)
        if not self._calls:
            return {"why": "not called", **called_instead(guider, self._key)}
        if len(self._taken) == self._calls:
            return {"why": "not reached", **self._taken[-1]}
        if self._counts and not self._met:
            return {"why": "not reached", **called_instead(guider, self._key, inside=True)}
        return self.steps.some(guider, self._key)

    @contextmanager
    def counted(self, executor: Any, options: dict[str, Any]) -> Iterator[None]:
        """One model call."""
        self._calls += 1
        own = self.own(options)
        taken = self._taken_by(options, own)
        if taken is not None:
            self._taken.append(taken)
        if self._counts is None:
            self._counts = not self._is_compiled(getattr(executor, "class_obj", None), options)
        if len(own) < len(self._patch.sites):
            self._by_patches |= {site.path for site in self._patch.sites} - own.keys()
        self._takers.note(options, self._key)
        given_up, left = given_up_at(own.values()), left_at(own.values())
        try:
            with noting() as noted:
                yield
        finally:
            self.by_sdpa += given_up_at(own.values()) - given_up
            self.left += left_at(own.values()) - left
        places = self._patch.places
        met = [place for place in places.keys() & noted.keys() if places[place] in own]
        if len(self._reached) < len(places):
            self._met.update(places[place] for place in met)
            self._reached.update(places[place] for place in met if noted[place])
        self.steps.called(bool(met) or not self._counts)

    def own(self, options: dict[str, Any]) -> dict[str, nn.Module]:
        """The sites that no patch further in takes, by path, with their modules."""
        takes = [other for other in further_in(self._patch, options) if getattr(other, "takes_place", False)]
        others = {site.path for other in takes for site in other.sites}
        return {site.path: site.module for site in self._patch.sites if site.path not in others}

    def _taken_by(self, options: dict[str, Any], own: dict[str, nn.Module]) -> dict[str, str | None] | None:
        """What computes attention at all sites of the patch in this call, None when nothing that is known does."""
        if not self._patch.takes_place:  # it adds to whatever computes
            return None
        override = options.get(OVERRIDE, self._patch.superseded)
        if override is not self._patch.superseded:
            return named(override)
        return None if own else OWN

    def _is_compiled(self, base_model: Any, options: dict[str, Any]) -> bool:
        """Whether another node may have compiled the model, or a part of it."""
        if "torch.compile" in ((options.get("wrappers") or {}).get("apply_model") or {}):
            return True
        model = getattr(base_model, "diffusion_model", None)
        modules = model.modules() if isinstance(model, nn.Module) else ()
        return any("_orig_mod" in module._modules or module._compiled_call_impl is not None for module in modules)
