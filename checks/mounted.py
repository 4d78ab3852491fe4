"""A processor at a site, and what was found out about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from ..patching.user_code import Attendance
from ..patching.user_errors import class_name
from ..processors import Level, Processor, Site, written
from .probing.cases import Brought
from .rule import Subject

T = TypeVar("T")


@dataclass(frozen=True)
class Held(Subject):
    """A processor with its tensors, whether it can be called or not."""


@dataclass(frozen=True)
class Mounted(Held):
    """A processor where it is going to compute attention.

    ``module`` is the module that a person wrote, ``processor`` what is called: the same one, or one that adapts its
    signature. ``thorough`` asks for every combination of inputs instead of a pairwise cover. ``device`` and ``dtype``
    are those that the model computes in. ``ask`` tells what the model's blocks hand to the site, None where nobody
    knows; it may take a second, so it is asked when something depends on it. ``attendance`` looks after the processor's
    code. ``captured`` is what is known of its graphs and numbers from other sites, see ``graph/capture.py``.
    """

    processor: Processor
    site: Site
    dtype: torch.dtype
    device: torch.device
    thorough: bool = False
    ask: Callable[[], Brought | None] = field(default=lambda: None, compare=False, repr=False)
    attendance: Attendance = field(default_factory=Attendance, compare=False, repr=False)
    captured: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    _evidence: dict[Callable, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def level(self) -> Level:
        return self.processor.level

    def apart(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, with the processor's code in it, run in a thread of its own with this one's modes."""
        grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        gpu = torch.cuda.current_device() if self.device.type == "cuda" and torch.cuda.is_initialized() else None

        def there() -> T:
            if gpu is not None:
                torch.cuda.set_device(gpu)
            with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                return work()

        return self.attendance.apart(there, f"a call of {class_name(type(self.module))}")

    def evidence(self, gather: Callable[[Mounted], T]) -> T:
        """What ``gather`` finds out about it; gathered once, however many rules ask."""
        if gather not in self._evidence:
            self._evidence[gather] = gather(self)
        return self._evidence[gather]


def mount(
    processor: Processor,
    site: Site,
    dtype: torch.dtype,
    device: torch.device,
    thorough: bool = False,
    attendance: Attendance | None = None,
    ask: Callable[[], Brought | None] = lambda: None,
    captured: dict[Any, Any] | None = None,
) -> Mounted:
    """A processor at a site, under the site's path."""
    module: nn.Module = written(processor)
    looked_after = attendance or Attendance()
    path, known = f"{site.path}.processor", {} if captured is None else captured
    return Mounted(path, module, processor, site, dtype, device, thorough, ask, looked_after, known)
