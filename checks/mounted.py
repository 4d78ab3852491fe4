"""A processor at a site, and what was found out about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from ..processors import Level, Processor, Site, written
from .rule import Subject

T = TypeVar("T")


@dataclass(frozen=True)
class Mounted(Subject):
    """A processor where it is going to compute attention.

    ``module`` is the module that a person wrote, ``processor`` what is called: the same one, or one that adapts its
    signature. ``thorough`` asks for every combination of inputs instead of a pairwise cover. ``device`` and ``dtype``
    are those that the model computes in.
    """

    processor: Processor
    site: Site
    dtype: torch.dtype
    device: torch.device
    thorough: bool = False
    _evidence: dict[Callable, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def level(self) -> Level:
        return self.processor.level

    def evidence(self, gather: Callable[[Mounted], T]) -> T:
        """What ``gather`` finds out about it; gathered once, however many rules ask."""
        if gather not in self._evidence:
            self._evidence[gather] = gather(self)
        return self._evidence[gather]


def mount(
    processor: Processor, site: Site, dtype: torch.dtype, device: torch.device, thorough: bool = False
) -> Mounted:
    """A processor at a site, under the site's path."""
    module: nn.Module = written(processor)
    return Mounted(f"{site.path}.processor", module, processor, site, dtype, device, thorough)
