"""What a session's blocks are compiled with, and what that costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .backends import Backend, choose_backend
from .clearing import CLEARED
from .graphs import SharedGraph
from .region_runner import RegionRunner
from .settings import Settings


class Compiling:
    """The backend of one session and the graphs that its blocks use; ``baseline`` holds what each had cost before."""

    def __init__(self, settings: Settings, device: torch.device):
        self.backend: Backend | None = None
        self.baseline: dict[SharedGraph, tuple[int, float, int, int, int]] = {}
        self._settings = settings
        self._device = device
        self._cleared = CLEARED.graphs
        self._since: float | None = None

    def choose_backend(self) -> str:
        """Chooses the backend and returns why that one.

        Raises:
            BackendUnavailable: when none works here.
        """
        self.backend, reason = choose_backend(self._settings.backend, self._device)
        return reason

    def forget(self) -> None:
        """Lets go of all graphs; the next ones are other ones."""
        self.baseline.clear()
        self._cleared = CLEARED.graphs

    def begin_sampling(self) -> None:
        self._since = None

    def graph_of(self, key: tuple, find: Callable[[tuple], SharedGraph]) -> SharedGraph:
        """The shared graph of a block's variant for this backend."""
        backend = self.backend.name if self.backend else None
        graph = find((backend, self._settings.effort, self._device.type, self._cleared, *key))
        self.baseline.setdefault(graph, graph.counts())
        return graph

    def compile(self, block: nn.Module, graph: SharedGraph) -> Callable:
        """Asks OneDiff for the compiled module of a block."""
        assert self.backend is not None
        return self.backend.compile(block, graph, self._settings.effort)

    def explain(self, error: Exception) -> tuple[str, dict[str, str] | None]:
        """A failure in words, and the graph break that it was, if it was one."""
        assert self.backend is not None
        return self.backend.explain(error)

    def progress(self, runner: RegionRunner, runners: Sequence[RegionRunner]) -> dict[str, Any]:
        """The record's ``progress`` before a block is compiled."""
        self._since = self._since or time.monotonic()
        return {
            "done": sum(r.parity is not None or r.reason is not None for r in runners),
            "total": len(runners),
            "path": runner.region.path,
            "seconds": round(time.monotonic() - self._since, 1),
        }
