"""Makes processors of a class with the weights of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn

from ...memo import Notes
from ...patching.inside import modules_in
from ...patching.user_errors import class_name
from ..authored.adapt import written
from ..authored.instances import OwnInstance
from ..authored.recipe import RECIPE, Recipe
from ..authored.site_values import asks, ids_in
from ..contract import Processor
from ..sites.find import Site
from .custom_diffusion import CustomDiffusion
from .file import EVERYWHERE, LoadedFile
from .reading import cut
from .unusable import Unusable

#: What forwards call at sites, by class: another file, or another strength, compiles nothing.
_OWN: Notes[dict[tuple, OwnInstance]] = Notes(dict)

Place = tuple[torch.device | None, torch.dtype | None]


class LoadedRecipe(Recipe):
    """A class with the weights that a file has for each site. Sites share what the file has for all."""

    def __init__(self, cls: type, place: Place, file: LoadedFile, tensors: Mapping[str, Mapping[str, torch.Tensor]]):
        super().__init__(cls, place)
        self._shown, self._tensors = file.shown, tensors
        self._moved: dict[tuple, nn.Parameter] = {}
        named = any(name != EVERYWHERE for name in tensors)
        self.per_site = named or bool(asks(cls))

    def names(self, site: Site) -> bool:
        """Whether the file has weights for a site."""
        return EVERYWHERE in self._tensors or site.path in self._tensors

    def first(self, sites: list[Site]) -> nn.Module:
        """What is checked: the one for the first site. Modules' have one a site, so that blocks share their graph."""
        made = self.instance(sites[0] if sites else None)
        if issubclass(type(made), Processor) and cast(Processor, made).level == "module":
            self.per_site = True
            processor = cast(Processor, made)
            kept = _OWN.on(self.cls)
            key = (*self.place, getattr(processor, "takes_options", False))
            self.own = kept.setdefault(key, OwnInstance(processor))
        return made

    def instance(self, site: Site | None) -> nn.Module:
        """As any recipe's, with the file's weights.

        Raises:
            Unusable: when they are not those that the class has.
        """
        tensors = {**self._tensors.get(EVERYWHERE, {}), **self._tensors.get(site.path if site else "", {})}
        if self.cls is CustomDiffusion:
            with torch.inference_mode(False), torch.no_grad():
                own = {name: tensor.clone() for name, tensor in tensors.items()}
                made: nn.Module = CustomDiffusion(own).to(*self.place).eval()
            made.__dict__[RECIPE] = self
            return made
        made = super().instance(site)
        self._put(written(made), tensors, site)
        return made

    def _put(self, module: nn.Module, tensors: Mapping[str, torch.Tensor], site: Site | None) -> None:
        name, at = class_name(self.cls), f" at {site.path}" if site is not None else ""
        own = dict(_own_tensors(module, ids_in(site)))
        lacking = sorted(key for key, (_, kind, _) in own.items() if kind == "_parameters" and key not in tensors)
        if lacking:
            raise Unusable(self._shown, f"lacks {cut(lacking[0])}, which {name} has{at}", "save its whole state_dict")
        for key, given in tensors.items():
            if key not in own:
                has = ", ".join(list(own)[:5]) or "no weights"
                raise Unusable(self._shown, f"has {cut(key)}, which {name} has not{at}", f"it has {has}")
            part, kind, leaf = own[key]
            present = getattr(part, kind)[leaf]
            if present.shape != given.shape:
                sizes = f"{list(given.shape)} where {name} has {list(present.shape)}{at}"
                raise Unusable(
                    self._shown, f"has {cut(key)} of {sizes}", "save it anew, or load the model that it is for"
                )
            put = self._in_place(given, present)
            with torch.inference_mode(False):
                getattr(part, kind)[leaf] = put if kind == "_parameters" else put.detach().clone()

    def _in_place(self, given: torch.Tensor, like: torch.Tensor) -> nn.Parameter:
        """A tensor of the file in the place of another one; the same one for all sites that ask, so that all of them
        follow where it is moved."""
        key = (id(given), like.device, like.dtype)
        if key not in self._moved:
            # Nodes run in inference mode, whose tensors compiled code tells apart.
            with torch.inference_mode(False), torch.no_grad():
                moved = torch.empty(like.shape, dtype=like.dtype, device=like.device).copy_(given)
                self._moved[key] = nn.Parameter(moved, requires_grad=False)
        return self._moved[key]


def _own_tensors(module: nn.Module, foreign: frozenset[int]) -> Iterator[tuple[str, tuple[Any, str, str]]]:
    """A module's own weights and buffers by their names in its state_dict: where each is held."""
    for path, part in modules_in(module):
        if id(part) in foreign:
            continue
        left_out = getattr(part, "_non_persistent_buffers_set", ())
        for kind in ("_parameters", "_buffers"):
            for leaf, tensor in getattr(part, kind).items():
                if tensor is not None and leaf not in left_out and id(tensor) not in foreign:
                    yield f"{path}.{leaf}" if path else leaf, (part, kind, leaf)
