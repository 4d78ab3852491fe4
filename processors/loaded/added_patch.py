"""The sites to whose attention one node adds, as a wrapper of ``apply_model``."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import nn

from ...patching.calls import options_position
from ...patching.forwards import swapped_attributes
from ...patching.wrappers import ModelCall
from ..attention_patch import AttentionPatch
from ..called_sites import Place
from ..site_calls import Because
from ..sites.find import Site
from .added import ADDED, Adds, adding_forward, register
from .ip_adapter import ImageAttention


class AddedPatch(AttentionPatch):
    """Like any other patch, but what computes attention at its sites stays."""

    takes_place = False

    def __init__(self, sites: list[Site], processor: ImageAttention, *args: Any, **kwargs: Any):
        register()
        self.adds = processor
        super().__init__(sites, processor, *args, **kwargs)
        self.superseded = None

    def _set_forwards(self) -> None:
        self.called_as = self.instances.called_as
        self.places: dict[Place, str] = {}  # others in each call

    @property
    def forwards(self) -> list[tuple[nn.Module, Callable]]:  # type: ignore[override]
        """Made anew for each call, upon what earlier patches have set on the sites by then."""
        return [(site.module, _upon(site.module)) for site in self.sites]

    def adds_nothing(self) -> Because | None:
        return self.adds.without_effect()

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().sampling(executor, *args, **kwargs)
        finally:
            self.adds.forget()

    def around(self, call: ModelCall) -> Any:
        base_model = getattr(call.executor, "class_obj", None)
        self.adds.begin_call(call.options, (call.x.shape[-2], call.x.shape[-1]), base_model)
        held: list[tuple[nn.Module, tuple[Adds, ...]]] = [
            (site.module, (*site.module.__dict__.get(ADDED, ()), (self.adds, site.path))) for site in self.sites
        ]
        self.places = {(id(site.module), len(site.module.__dict__.get(ADDED, ()))): site.path for site in self.sites}
        with swapped_attributes(ADDED, held):
            return super().around(call)


def _upon(module: nn.Module) -> types.MethodType:
    """The forward of a site whose module holds what is to be added, the last one of ``ADDED``."""
    present, own = module.__dict__.get("forward"), type(module).forward
    forward = own if present is None else getattr(present, "__func__", None)
    if forward is None or (present is not None and getattr(present, "__self__", None) is not module):
        forward = _unbound(present)
    position, number = options_position(own), len(module.__dict__[ADDED]) - 1
    assert position is not None
    return types.MethodType(adding_forward(forward, number, position), module)


def _unbound(function: Any) -> Callable:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return forward
