"""What the rest of the pack knows of a backend, and how one says no."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from ..blocks.shared_graph import SharedGraph


class Backend(Protocol):
    """What the rest of the pack knows of a backend. Nothing above it assumes Dynamo or Inductor."""

    @property
    def name(self) -> str: ...

    @property
    def package(self) -> str:
        """The distribution whose version the record shows."""

    @property
    def native(self) -> bool:
        """Whether it loads libraries that may hang or end the process: it is proven in a child process first."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions whose versions a proof depends on, besides torch."""

    def emulates_casts(self, device: str) -> bool:
        """Whether it heeds ``SharedGraph.emulates_casts`` on this type of device."""

    def absent(self, device: torch.device) -> str | None:
        """Why it cannot work here, found out without compiling or loading it; None when it may."""

    def load(self) -> None:
        """Imports it. May raise anything, and a native one may do worse."""

    def start_up(self, device: torch.device) -> None:
        """Does what a process pays once, however little is compiled. May raise what ``load`` may."""

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        """The compiled module of a block. May compile at the first call."""

    def explain(self, error: Exception) -> tuple[str, dict[str, str] | None]:
        """A failure in words, and the graph break that it was, if it was one."""

    def about(self, effort: str, device: str) -> str | None:
        """What this effort means on this type of device, where that is worth a sentence."""


class BackendUnavailable(RuntimeError):
    """A backend that cannot compile on this machine. ``backend`` names it, ``reason`` says what is missing and what to
    do."""

    def __init__(self, backend: str, reason: str):
        super().__init__(f"backend {backend} is not available: {reason}")
        self.backend = backend
        self.reason = reason
