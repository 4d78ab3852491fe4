"""Times the steps of whole samplings, uncompiled and compiled alike, for the speed report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..status.timing import Stopwatch
from .session import Session


class StepClock:
    """A wrapper of ``apply_model``, outermost of the pack's own: milliseconds of the model calls of each step.

    A step may call the model several times (prompts of different lengths, samplers of higher order): they are added up.
    With a session, only steps whose calls all ran compiled, and compiled nothing new, are kept.
    """

    order = -1

    def __init__(self, device: torch.device, session: Session | None = None):
        self.steps_ms: list[float] = []
        self.calls = 0
        self.left_out = 0
        self._session = session
        self._stopwatch = Stopwatch(device)
        self._milliseconds = 0.0
        self._counts = True

    def __call__(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        result, milliseconds = self._stopwatch.time(lambda: executor(*args, **kwargs))
        self.calls += 1
        self._milliseconds += milliseconds
        self._counts &= self._session is None or self._session.step_was_compiled
        return result

    def step_ended(self) -> None:
        """What the sampler tells after each of its steps. A step without a model call is none."""
        if self._milliseconds and self._counts:
            self.steps_ms.append(self._milliseconds)
        elif self._milliseconds:
            self.left_out += 1
        self._milliseconds, self._counts = 0.0, True
