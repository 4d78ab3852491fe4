"""Which instance computes attention at each site of a patch.

One serves all sites and all samplings, unless its class asks for values of a site, or was seen to keep something
between calls: such a class gets a new one each sampling, and none of those is the one that the check called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn

from ...memo import shared
from ...patching.user_code import Attendance, Cancel
from ...patching.user_errors import class_name
from ..as_operator import PLACE, in_graph, name_of
from ..contract import Processor
from ..elsewhere import CallKind
from ..sites.find import Site
from .adapt import written
from .recipe import foreign_to, recipe_of
from .state import Kept, Places, differing, places_of, prints

#: The attribute of a site's module under which its instance is found while a model call runs.
AT_SITE = "onediff_processor"

#: Model calls of a sampling after which it is looked whether they changed anything. The sizes stay the same.
LOOKS = 4


def at_site(processor: nn.Module, site: Site, cancel: Cancel | None = None) -> nn.Module:
    """The instance to be checked at a site: a new one where each site has its own."""
    recipe = recipe_of(processor)
    if recipe is None or not recipe.per_site:
        return processor
    return Attendance(cancel).apart(lambda: recipe.instance(site), f"{class_name(recipe.cls)} to be made")


class Stands:
    """Stands for an instance in the forwards that are set on sites. It holds none for longer than a sampling: they may
    hold layers of a model that must go when nobody uses it."""

    def __init__(self, checked: Processor):
        self.takes_options = getattr(checked, "takes_options", False)
        self.reader = reader_of(checked)
        self.left = checked.left


class Seat(Stands):
    """For that of a sampling. The forwards stay the same ones: what was measured with them is found again. What
    computes through it is never compiled."""

    def __init__(self, checked: Processor):
        super().__init__(checked)
        self.processor: Processor | None = None

    def __call__(self, *args: Any) -> torch.Tensor:
        assert self.processor is not None
        return self.processor(*args)


class OwnInstance(Stands):
    """For that of the site that computes, so that equal sites share a compiled graph."""

    def __call__(self, attn: Any, *args: Any) -> torch.Tensor:
        return attn.onediff_processor(attn, *args)


class AsOperator(Stands):
    """For one that no graph can hold: in a compiled block it is called through an operator."""

    def __init__(self, checked: Processor, computes: Processor | OwnInstance):
        self.checked, self.computes = checked, computes
        self.takes_options, self.reader = False, None
        self.name = name_of(computes, type(written(checked)))

    @property
    def left(self) -> tuple[CallKind, ...]:  # type: ignore[override]  # grows when another model is checked
        return self.computes.left

    def __call__(self, *args: Any) -> torch.Tensor:
        level = self.checked.level
        if torch.compiler.is_compiling() and (level == "kernel" or hasattr(args[0], PLACE)):
            return in_graph(self.name, level, args)
        return self.computes(*args)


@shared
def _as_operator(checked: Processor, computes: Processor | OwnInstance) -> AsOperator:
    """One for all patches, so that compiled graphs are shared."""
    return AsOperator(checked, computes)


#: What computes at a site, called as a processor of its level is.
Computes = Processor | Seat | OwnInstance | AsOperator


def reader_of(computes: Computes) -> type | None:
    """The class that is handed ``transformer_options``, and may read what a block itself does not; None for others."""
    if isinstance(computes, Stands):
        return computes.reader
    return type(written(computes)) if getattr(computes, "takes_options", False) else None


class Instances:
    """The instances of one patch. ``checked`` is the one that the check called.

    Args:
        attendance: looks after the code that makes others.
    """

    def __init__(
        self, checked: Processor, sites: Sequence[Site], attendance: Callable[[], Attendance] = Attendance
    ) -> None:
        self.checked = checked
        self._recipe = recipe_of(checked)
        self._sites, self._attendance = sites, attendance
        self._at: dict[str, Processor] = {}
        self._for_check: dict[str, Processor] = {}
        self._seats: dict[str, Seat] = {}
        self._looked: list[tuple[Places, dict[str, Any]]] = []
        self._calls = 0
        if self.per_site and not self.keeps_state:
            self._at = {site.path: self._new(site) for site in sites}

    @property
    def keeps_state(self) -> bool:
        """Whether each sampling has instances of its own."""
        return self._recipe is not None and bool(self._recipe.keeps)

    @property
    def as_operator(self) -> bool:
        """Whether compiled blocks call it through an operator. An operator hands on no options."""
        known = self.checked.as_operator or (self._recipe is not None and self._recipe.as_operator)
        return known and not self.keeps_state and not getattr(self.checked, "takes_options", False)

    @property
    def called_as(self) -> tuple[bool, bool]:
        """What decides how forwards call it."""
        return self.keeps_state, self.as_operator

    @property
    def per_site(self) -> bool:
        """Whether each site has one of its own."""
        return self._recipe is not None and self._recipe.per_site

    @property
    def all(self) -> list[Processor]:
        """Those that compute now."""
        return list(self._at.values()) or ([] if self.keeps_state else [self.checked])

    def to_check(self, site: Site) -> Processor:
        """The one that stands for those at a site where the class is checked."""
        if not self.per_site:
            return self.checked
        if self.keeps_state and site.path not in self._for_check:
            attendance = self._attendance()
            try:
                self._for_check[site.path] = self._new(site)
            except attendance.stops:
                raise
            except BaseException:  # is told by the sampling, which makes one, too
                self._for_check[site.path] = self.checked
        return self._for_check[site.path] if self.keeps_state else self._at[site.path]

    def computes(self, site: Site) -> Computes:
        """What the forward of a site calls."""
        if self.keeps_state:
            return self._seats.setdefault(site.path if self.per_site else "", Seat(self.checked))
        computes = self._in_graphs(site)
        if not self.as_operator:
            return computes
        return _as_operator(self.checked, computes)

    def _in_graphs(self, site: Site) -> Processor | OwnInstance:
        if self._recipe is None or not self.per_site:
            return self.checked
        if self.checked.level == "kernel":  # an attention function is not told its site
            return self._at[site.path]
        self._recipe.own = self._recipe.own or OwnInstance(self.checked)
        return self._recipe.own

    def attributes(self) -> list[tuple[nn.Module, Processor]]:
        """The modules of sites with the instance that each finds on itself in a model call."""
        if self.keeps_state or not self.per_site or self.checked.level == "kernel":
            return []
        return [(site.module, self._at[site.path]) for site in self._sites]

    def begin_sampling(self) -> None:
        """The next model call begins with new ones of a class that keeps state; what others kept goes."""
        self._looked.clear()
        self._calls = 0
        if self.keeps_state:
            self._leave()

    def _leave(self) -> None:
        assert self._recipe is not None
        self._at.clear()
        for seat in self._seats.values():
            seat.processor = None
        self._recipe.pristine.put_back()

    def begin_call(self) -> None:
        """Before each model call. Weights are in their place by then, a LoRA's among them."""
        if self.keeps_state and not self._at:
            self._leave()
            made = [self._new(site) for site in self._sites] if self.per_site else [self._new(self._first)]
            keys = [site.path for site in self._sites] if self.per_site else [""]
            self._at = dict(zip(keys, made, strict=True))
        for key, seat in self._seats.items():
            seat.processor = self._at.get(key)
        if self._recipe is not None:
            for computes in (*self._seats.values(), *self._at.values(), self._recipe.own):
                if computes is not None:
                    computes.left = self._recipe.left
        if self._recipe is not None and not self.keeps_state and not self._looked:
            for processor in self.all:
                places = places_of(written(processor), self._foreign())
                self._looked.append((places, prints(places)))

    def end_call(self) -> None:
        """After each model call: looks whether it shows for the first time that the class keeps state. The present
        instances go on until the sampling ends."""
        if self._recipe is None:
            return
        self._calls += 1
        if not self.keeps_state and self._calls <= LOOKS:
            for number, (places, before) in enumerate(self._looked):
                now = prints(places)
                self._recipe.keeps |= differing(before, now) - self._recipe.harmless
                self._looked[number] = places, now
        if self.keeps_state:
            self._at = self._at or {"": self.checked}

    def kept(self) -> Kept | None:
        """What a class that keeps state holds now, to be put back when a model call is made again."""
        if not self.keeps_state or not self._at:
            return None
        spaces = [places_of(written(processor), self._foreign()) for processor in self._at.values()]
        together = Places(spaces[0].home, foreign=spaces[0].foreign)
        for number, places in enumerate(spaces):
            together.spaces |= {
                f"{number}.{name}" if name.startswith("self") else name: space for name, space in places.spaces.items()
            }
        return Kept(together)

    @property
    def _first(self) -> Site | None:
        return self._sites[0] if self._sites else None

    def _foreign(self) -> frozenset[int]:
        return frozenset().union(*(foreign_to(self.checked, site) for site in self._sites))

    def _new(self, site: Site | None) -> Processor:
        assert self._recipe is not None
        recipe = self._recipe
        made = self._attendance().apart(lambda: recipe.instance(site), f"{class_name(recipe.cls)} to be made")
        return cast(Processor, made)
