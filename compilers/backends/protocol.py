"""What the rest of the pack knows of a backend, and how one says no."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import nn

from ..blocks.shared_graph import SharedGraph


class BackendUnavailable(RuntimeError):
    """A backend that cannot compile on this machine. ``backend`` names it, ``reason`` says what is missing and what to
    do."""

    def __init__(self, backend: str, reason: str):
        super().__init__(f"backend {backend} is not available: {reason}")
        self.backend = backend
        self.reason = reason


class Cancelled(BaseException):
    """The user pressed Cancel while a backend compiled. ``error`` is the host's own, an Exception in some versions,
    which Dynamo would take for a failure of compiling."""

    def __init__(self, error: BaseException):
        super().__init__()
        self.error = error


@dataclass(frozen=True)
class Failure:
    """Why compiling a block, or running it compiled, failed: a sentence for a person and, when it was a graph break,
    ``{"where": "file:line", "reason"}``. ``passing`` marks a reason that may be gone at the next sampling."""

    reason: str
    graph_break: dict[str, str] | None = None
    passing: bool = False


class Backend(Protocol):
    """Nothing above a backend assumes Dynamo or Inductor. What a backend does not say of itself, it cannot do.

    ``package`` is the distribution whose version the record shows, ``packages`` those besides torch that a proof
    depends on, ``devices`` the types of device that it compiles for. A ``native`` one loads libraries that may hang or
    end the process: it is proven in a child process first. ``uses_triton`` tells that it writes GPU code with Triton,
    ``holds_operators`` that foreign code may run inside its graphs as an operator of torch, ``holds_code_alone`` that
    its graphs hold no tensor, so that they may outlive their models.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    devices: ClassVar[tuple[str, ...]]
    native: ClassVar[bool] = True
    uses_triton: ClassVar[bool] = False
    holds_operators: ClassVar[bool] = False
    holds_code_alone: ClassVar[bool] = False

    def takes_any_batch(self, device: str) -> bool:
        """Whether one graph can hold for every batch on this type of device."""
        return False

    def leaves_libraries(self, device: str) -> bool:
        """Whether convolutions, matrix products and attention stay library calls on this type of device."""
        return False

    def absent(self, device: torch.device) -> str | None:
        """Why it cannot work here, found out without compiling or loading it; None when it may."""
        raise NotImplementedError

    def load(self) -> None:
        """Imports it. May raise anything, and a native one may do worse."""
        raise NotImplementedError

    def start_up(self, device: torch.device) -> None:
        """Does what a process pays once, however little is compiled. May raise what ``load`` may."""
        self.load()

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        """The compiled module of a block. May compile at the first call, which raises Cancelled where ``graph.cancel``
        has ended it."""
        raise NotImplementedError

    def explain(self, error: Exception) -> Failure:
        """A failure in words."""
        raise NotImplementedError

    def emulates_casts(self, device: str) -> bool:
        """Whether it heeds ``SharedGraph.emulates_casts`` on this type of device."""
        return False

    def about(self, effort: str, device: str) -> str | None:
        """What this effort means on this type of device, where that is worth a sentence."""
        return None

    def notes_on_kept(self) -> list[str]:
        """What people should know of what it keeps between starts."""
        return [f"{self.name} compiles again after each start: nothing is kept on disk."]
