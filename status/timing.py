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
    """Milliseconds of a call on ``device``: by events and a synchronisation on CUDA, by a clock elsewhere."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda" and torch.cuda.is_available()

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
    """Step times by shape, uncompiled and compiled ones apart. Two are compared only on the same shapes."""

    def __init__(self) -> None:
        self.eager: dict[Hashable, list[float]] = {}
        self.compiled: dict[Hashable, list[float]] = {}

    def add(self, shape: Hashable, milliseconds: float, *, compiled: bool) -> None:
        """Notes one step, while more are needed."""
        times = (self.compiled if compiled else self.eager).setdefault(shape, [])
        if len(times) < (COMPILED_STEPS if compiled else UNCOMPILED_STEPS):
            times.append(milliseconds)

    def uncompiled_next(self, shape: Hashable) -> bool:
        """Whether the next step of this shape should run uncompiled, to be timed."""
        eager, compiled = len(self.eager.get(shape, ())), len(self.compiled.get(shape, ()))
        if not self.compiled:
            return eager == 0
        return 0 < eager <= compiled and eager < UNCOMPILED_STEPS

    def medians(self) -> tuple[float | None, float | None]:
        """Median milliseconds uncompiled and compiled, on the shape that has most of both; None where there is none."""
        shared = [shape for shape in self.eager if shape in self.compiled]
        if not shared:
            eager = next(iter(self.eager.values()), None)
            return (_median(eager) if eager and not self.compiled else None), None
        best = max(shared, key=lambda shape: min(len(self.eager[shape]), len(self.compiled[shape])))
        return _median(self.eager[best]), statistics.median(self.compiled[best])

    def complete(self) -> bool:
        """Whether as many steps of one shape were timed as are compared."""
        return any(
            len(self.compiled.get(shape, ())) == COMPILED_STEPS and len(eager) == UNCOMPILED_STEPS
            for shape, eager in self.eager.items()
        )

    def slower_compiled(self) -> bool:
        """Whether compiled steps are known to be slower than uncompiled ones: by more than noise when all steps were
        timed, by much when there are at least two of each so far."""
        eager, compiled = self.medians()
        if eager is None or compiled is None:
            return False
        if self.complete():
            return compiled > eager * NOISE
        two = any(len(self.compiled.get(shape, ())) > 1 and len(times) > 1 for shape, times in self.eager.items())
        return two and compiled > eager * MUCH


def _median(eager: list[float]) -> float:
    """Median of uncompiled steps, the first (a warm-up) left out when there are more."""
    return statistics.median(eager[1:] or eager)
