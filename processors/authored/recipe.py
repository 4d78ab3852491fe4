"""What makes instances of a class: as many as there are sites to ask for, and new ones where a class keeps state."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ...patching.ending.stopping import Stopped
from ...patching.explicit_forward import with_forward
from ...patching.inside import attributes_of, modules_in, tensors_in
from ..elsewhere import CallKind
from ..random_numbers import numbers_kept
from ..sites.find import Site
from .adapt import NotCallable, adapt
from .site_layout import Layout
from .site_values import asks, ids_in, values_at
from .state import Kept, outside

#: The attribute under which an instance knows what it was made by.
RECIPE = "made_by"


@dataclass(eq=False)
class Recipe:
    """A class with where its weights are to be.

    ``per_site``: its ``__init__`` takes values of a site, so each has an instance of its own. ``keeps`` names what its
    calls were seen to keep; empty, one instance serves all samplings. ``harmless`` names what a first call makes and
    others use, as tables. ``pristine`` is what it keeps outside of its instances, as it was before the first call.
    ``left`` are kinds of calls that go to PyTorch's attention. ``as_operator``: no graph can hold it, an operator can.
    ``own`` is what forwards call at sites with an instance each.
    """

    cls: type
    place: tuple[torch.device | None, torch.dtype | None] = (None, None)
    keeps: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    left: tuple[CallKind, ...] = ()
    as_operator: bool = False
    own: Any = None

    def __post_init__(self) -> None:
        self.per_site = bool(asks(self.cls))
        self._forms: set[tuple] = set()
        self.pristine = Kept(outside(with_forward(self.cls)))

    def missing(self, site: Site | None) -> tuple[str, ...]:
        """What ``__init__`` needs and a site does not tell."""
        return values_at(self.cls, site, *self.place).missing

    def instance(self, site: Site | None) -> nn.Module:
        """A new instance, in eval mode and without gradients: a Processor where it can be called as one. Random weights
        are the same ones each time at a site, and no other random number is.

        Raises:
            ChangesSite: when ``__init__`` changes the module of the site that it was given.
        """
        given = values_at(self.cls, site, *self.place).given
        foreign = ids_in(site) if site is not None and site.module in given.values() else frozenset()
        with numbers_kept(torch.device("cpu"), zlib.crc32(site.path.encode()) if site else 0):
            before = self._layout(site) if foreign and site else None
            try:
                with torch.inference_mode(False):
                    made = _new(self.cls, given)
                    _own_mode(made, foreign) if foreign else made.eval().requires_grad_(False)
            finally:
                changed = before is not None and _put_back(before)
            if changed:
                raise ChangesSite
            made.__dict__[RECIPE] = self
            if foreign and site is not None and (held := _held_weights(made, site)):
                self.keeps |= held
            if foreign and site is not None:
                _let_call(made, site.module)
            adapted = made
            with contextlib.suppress(NotCallable):
                adapted = adapt(made, site)
            _own_to(adapted, foreign, *self.place)
        adapted.__dict__[RECIPE] = self
        return adapted

    def _layout(self, site: Site) -> Layout:
        """Of a site. Its weights are copied for the first instance of each form."""
        form = (site.kind, *((name, tuple(p.shape)) for name, p in site.module.named_parameters()))
        first = form not in self._forms
        self._forms.add(form)
        return Layout(site, first)


def _let_call(made: nn.Module, module: nn.Module) -> None:
    """Lets an instance call the module that it replaces: in a model call that one's ``forward`` is the instance's own,
    so it holds another module with the same layers, whose ``forward`` is the class's."""
    own = type(module).__new__(type(module))
    own.__dict__.update(module.__dict__)
    own.__dict__.pop("forward", None)
    for part in list(nn.Module.modules(made)):
        for held in (part.__dict__, part.__dict__["_modules"]):
            held.update({name: own for name, value in held.items() if value is module})


class ChangesSite(ValueError):
    """``__init__`` changes the module that it was given."""


def recipe_of(processor: nn.Module) -> Recipe | None:
    """What made a processor; None for a built-in one, and one that another node hands over."""
    return (attributes_of(processor) or {}).get(RECIPE)


def keeps_state(processor: nn.Module) -> bool:
    """Whether a processor's calls were seen to keep something."""
    recipe = recipe_of(processor)
    return recipe is not None and bool(recipe.keeps)


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Weights and buffers; none of the module's own code runs."""
    yield from (tensor for _, tensor in tensors_in(module))


def foreign_to(processor: nn.Module, site: Site | None) -> frozenset[int]:
    """Ids of what a processor holds of its site and is not its own."""
    recipe = recipe_of(processor)
    return ids_in(site) if recipe is not None and recipe.per_site and site is not None else frozenset()


def _new(cls: type, given: dict[str, Any]) -> nn.Module:
    """An instance with an explicit ``forward``. A class's ``__new__`` may hand out another class's instance, as
    diffusers' old names do; that class is then made."""
    made: object = with_forward(cls)(**given)
    return cast(nn.Module, made) if issubclass(type(made), nn.Module) else with_forward(type(made))(**given)


def _own_modules(processor: nn.Module, foreign: frozenset[int]) -> Iterator[nn.Module]:
    return (module for _, module in modules_in(processor) if id(module) not in foreign)


def _own_mode(made: nn.Module, foreign: frozenset[int]) -> None:
    for module in _own_modules(made, foreign):
        module.training = False
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in foreign:
                parameter.requires_grad_(False)


def _own_to(
    processor: nn.Module, foreign: frozenset[int], device: torch.device | None, dtype: torch.dtype | None
) -> None:
    """Brings a processor's own weights to their place; those of the site stay the model's."""
    if not foreign:
        if any(True for _ in tensors_of(processor)):
            processor.to(device=device, dtype=dtype)
        return
    for module in _own_modules(processor, foreign):
        held: list[dict[str, Any]] = [module._parameters, module._buffers]
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in foreign:
                    moved = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
                    is_weight = isinstance(tensor, nn.Parameter)
                    tensors[name] = nn.Parameter(moved, requires_grad=False) if is_weight else moved


def _held_weights(made: nn.Module, site: Site) -> frozenset[str]:
    """Weights of the site that an instance holds by themselves, or a copy of which it made: the host puts others in
    their place when a LoRA is loaded, so they are taken anew each time."""
    theirs = list(site.module.parameters())
    ids, held = ids_in(site), set()
    for path, module in modules_in(made):
        if id(module) not in ids:
            values = [*module._parameters.items(), *module._buffers.items(), *module.__dict__.items()]
            held |= {
                f"self.{path}.{name}" if path else f"self.{name}"
                for name, value in values
                if isinstance(value, torch.Tensor) and any(_same(value, one) for one in theirs)
            }
    return frozenset(held)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one is other:
        return True
    alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return alike and one.device.type != "meta" and torch.equal(one, other)


def _put_back(before: Layout) -> bool:
    """Also where the thread is ended meanwhile; whether anything was changed."""
    stopped: Stopped | None = None
    changed = False
    while True:
        try:
            changed = before.put_back() or changed
            break
        except Stopped as error:
            stopped = error
    if stopped is not None:
        raise stopped
    return changed
