"""Measures how long a model call takes, without changing when it runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable
from typing import Any

import torch

#: Uncompiled steps that are timed: the first step, which warms up and counts only while it is alone, and one after
#: each of the first compiled steps, so that both are measured side by side and a machine that gets busy slows both.
UNCOMPILED_STEPS = 3

#: Compiled steps that are compared; later ones ran too long after the uncompiled ones.
COMPILED_STEPS = 3

#: A compiled step that takes this many times as long as an uncompiled one is slower; less is noise.
NOISE = 1.03

#: The same while not all steps were timed yet.
MUCH = 1.25


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


class StepTimes:
    """Step times by shape, uncompiled and compiled ones apart. Two are compared only on the same shapes."""

    def __init__(self) -> None:
        self.eager: dict[Hashable, list[float]] = {}
        self.compiled: dict[Hashable, list[float]] = {}

    def add(self, shape: Hashable, milliseconds: float, *, compiled: bool) -> None:
        """Notes one step, while more are needed."""
        times = (self.compiled if compiled else self.eager).setdefault(shape, [])
        if len(times) < (COMPILED_STEPS if compiled else UNCOMPILED_STEPS):
            times.append(milliseconds)

    def _counts(self, shape: Hashable) -> tuple[int, int]:
        return len(self.eager.get(shape, ())), len(self.compiled.get(shape, ()))

    def open(self, shape: Hashable) -> bool:
        """Whether steps of this shape still have to be timed."""
        eager, compiled = self._counts(shape)
        return eager < UNCOMPILED_STEPS or compiled < COMPILED_STEPS

    def uncompiled_next(self, shape: Hashable) -> bool:
        """Whether the next step of this shape should run uncompiled, to be timed."""
        eager, compiled = self._counts(shape)
        if not self.compiled:
            return eager == 0
        return eager < UNCOMPILED_STEPS and eager <= compiled and eager + compiled > 0

    def medians(self, shape: Hashable) -> tuple[float | None, float | None]:
        """Median milliseconds of a shape, uncompiled and compiled; None where nothing was timed. The first uncompiled
        step, a warm-up, is left out when there are more."""
        eager, compiled = self.eager.get(shape), self.compiled.get(shape)
        return (
            statistics.median(eager[1:] or eager) if eager else None,
            statistics.median(compiled) if compiled else None,
        )

    def slower_compiled(self, shape: Hashable) -> bool:
        """Whether compiled steps of a shape are known to be slower than uncompiled ones: by more than noise when all
        steps were timed, by much when there are two of each so far."""
        eager, compiled = self.medians(shape)
        if eager is None or compiled is None:
            return False
        if not self.open(shape):
            return compiled > eager * NOISE
        return min(self._counts(shape)) > 1 and compiled > eager * MUCH
