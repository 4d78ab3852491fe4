"""What a session measures of its steps, and which way of running them it decides for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import torch

from ..status.timing import PeakMemory, StepTimes, Stopwatch


class Measuring:
    """Times and memory of one session's steps. ``shape`` is that of the step that runs or ran last; steps of shapes in
    ``slow`` run uncompiled because compiled ones take longer. ``times`` belongs to the model and to what is active on
    it, so that another node finds it again."""

    def __init__(self, device: torch.device, keep_faster: bool):
        self.keep_faster = keep_faster
        self.times = StepTimes()
        self.shape: Hashable = None
        self.slow: set[Hashable] = set()
        self.last_steps: deque[tuple[float, str]] = deque(maxlen=40)  # milliseconds and how they were run
        self.steps_per_image = 0
        self.peaks: dict[str, float | None] = {"eager_peak_mb": None, "compiled_peak_mb": None}
        self._steps = 0
        self._stopwatch = Stopwatch(device)
        self._peak_memory = PeakMemory(device)

    def forget(self) -> None:
        """Drops all that was measured, as the user asked."""
        self.slow.clear()
        self.last_steps.clear()
        self.steps_per_image = 0
        self.peaks = dict.fromkeys(self.peaks)

    def begin_sampling(self) -> None:
        self._steps = 0

    def end_sampling(self) -> None:
        self.steps_per_image = self._steps

    def begin_step(self, shape: Hashable) -> bool:
        """Notes the shape of the next step. True for the first one of a sampling."""
        self.shape = shape
        self._steps += 1
        return self._steps == 1

    def time(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """Runs a step: its result and its milliseconds."""
        self._peak_memory.start()
        return self._stopwatch.time(call, wait=self.times.open(self.shape))

    def note(self, milliseconds: float, kind: str) -> None:
        """Notes a step for the bars on the canvas. ``kind``: "uncompiled", "compiled" or "compiling"."""
        self.last_steps.append((round(milliseconds, 2), kind))

    def count(self, milliseconds: float, *, compiled: bool) -> None:
        """Notes a step that shows how long steps of its shape take."""
        self.times.add(self.shape, milliseconds, compiled=compiled)
        phase = "compiled_peak_mb" if compiled else "eager_peak_mb"
        self.peaks = {**self.peaks, phase: self._peak_memory.read()}

    def found_slow(self) -> bool:
        """Whether the user wants the faster way, and steps like the last one were just found to be slower compiled."""
        if self.shape in self.slow or not self.keep_faster or not self.times.slower_compiled(self.shape):
            return False
        self.slow.add(self.shape)
        return True

    @property
    def is_slow(self) -> bool:
        """Whether steps like the last one run uncompiled because compiled ones take longer."""
        return self.shape in self.slow

    @property
    def settled(self) -> bool:
        """Whether steps like the last one were timed both ways."""
        return not self.times.open(self.shape)
