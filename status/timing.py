"""Measures how long a model call takes, without changing when it runs."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch


def median(values: list[float]) -> float | None:
    """Median, None of nothing."""
    return statistics.median(values) if values else None


class Stopwatch:
    """Milliseconds of a call on ``device``.

    On CUDA the call is bracketed by events and read after a synchronisation; elsewhere by a clock.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda" and torch.cuda.is_available()
        self.device = device

    def time(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """Runs ``call`` and returns its result and its milliseconds."""
        if not self.cuda:
            start = time.perf_counter()
            result = call()
            return result, (time.perf_counter() - start) * 1e3
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        result = call()
        end.record()
        end.synchronize()
        return result, begin.elapsed_time(end)


class PeakMemory:
    """Peak CUDA memory of a phase in MiB; None where the device does not count it."""

    def __init__(self, device: torch.device):
        self.device = device if device.type == "cuda" and torch.cuda.is_available() else None

    def start(self) -> None:
        """Starts a new phase."""
        if self.device is not None:
            torch.cuda.reset_peak_memory_stats(self.device)

    def read(self) -> float | None:
        """Peak since ``start``."""
        if self.device is None:
            return None
        return round(torch.cuda.max_memory_allocated(self.device) / 2**20, 1)


class StepTimes:
    """Step times by shape, apart for uncompiled and compiled steps, and the last few for the canvas."""

    def __init__(self, keep_last: int = 40):
        self.eager: dict[Any, list[float]] = {}
        self.compiled: dict[Any, list[float]] = {}
        self.last: deque[float] = deque(maxlen=keep_last)

    def add(self, shape: Any, milliseconds: float, *, compiled: bool) -> None:
        """Notes one step."""
        (self.compiled if compiled else self.eager).setdefault(shape, []).append(milliseconds)
        self.last.append(round(milliseconds, 2))

    def comparable(self) -> tuple[list[float], list[float]]:
        """Uncompiled and compiled times of the shape that has most of both; empty lists when none has both."""
        shared = [shape for shape in self.eager if shape in self.compiled]
        if not shared:
            return [], []
        best = max(shared, key=lambda shape: min(len(self.eager[shape]), len(self.compiled[shape])))
        return self.eager[best], self.compiled[best]
