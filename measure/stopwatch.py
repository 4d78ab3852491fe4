"""Measures how long a model call takes, and its memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


class Stopwatch:
    """Milliseconds of a call on ``device``."""

    def __init__(self, device: torch.device):
        self.device = device if device.type != "cpu" and hasattr(torch, "accelerator") else None

    def time(self, call: Callable[[], Any], *, wait: bool = True) -> tuple[Any, float]:
        """Runs ``call`` and returns its result and its milliseconds. An accelerator works on after the call returns:
        with ``wait`` it is waited for, without it the time is that of handing the work over."""
        self._synchronize(wait)
        start = time.perf_counter()
        result = call()
        self._synchronize(wait)
        return result, (time.perf_counter() - start) * 1e3

    def _synchronize(self, wait: bool) -> None:
        if wait and self.device is not None:
            torch.accelerator.synchronize(self.device)


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
