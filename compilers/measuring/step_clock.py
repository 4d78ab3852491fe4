"""Times the steps of whole samplings, uncompiled and compiled alike, for the speed report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ...measure.step_times import Work
from ...measure.stopwatch import Stopwatch
from ...patching.explicit_forward import forwards_given
from ...patching.forwards import swapped_forwards
from .block import Block


class BlockCounter:
    """A wrapper of ``apply_model`` in a session's place that compiles nothing: ``work()`` says how often the last call
    ran each of the blocks. Another node may let the model skip some."""

    order, times_steps = 1, True

    def __init__(self, blocks: Sequence[Block], called_directly: Sequence[nn.Module] = ()):
        self._blocks = [block.module for block in blocks]
        self._called_directly = called_directly
        self._calls: list[int] = []

    def work(self) -> Work:
        return tuple(self._calls)

    def __call__(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        self._calls = [0] * len(self._blocks)
        with forwards_given(self._called_directly):
            counted = [(block, self._counted(place, block.forward)) for place, block in enumerate(self._blocks)]
            with swapped_forwards(counted):
                return executor(*args, **kwargs)

    def _counted(self, place: int, forward: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            self._calls[place] += 1
            return forward(*args, **kwargs)

        return run


class StepClock:
    """A wrapper of ``apply_model``, outermost of the pack's own: milliseconds of the model calls of each step.

    A step may call the model several times (prompts of different lengths, samplers of higher order): they are added up.
    Only steps are kept after each of whose calls ``counts()`` is true. ``works`` says for each step which blocks its
    calls ran, as far as ``work()`` tells: it is that of the call that just ended.
    """

    order, times_steps = -1, True

    def __init__(
        self,
        device: torch.device,
        counts: Callable[[], bool] = lambda: True,
        work: Callable[[], Work | None] = lambda: None,
    ):
        self.steps_ms: list[float] = []
        self.works: list[tuple[Work, ...]] = []
        self.calls = 0
        self.left_out = 0
        self._call_counts, self._call_work = counts, work
        self._stopwatch = Stopwatch(device)
        self._milliseconds = 0.0
        self._counts = True
        self._works: list[Work] = []

    def __call__(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        result, milliseconds = self._stopwatch.time(lambda: executor(*args, **kwargs))
        self.calls += 1
        self._milliseconds += milliseconds
        self._counts &= self._call_counts()
        work = self._call_work()
        if work is not None:
            self._works.append(work)
        return result

    def step_ended(self) -> None:
        """What the sampler tells after each of its steps. A step without a model call is none."""
        if self._milliseconds and self._counts:
            self.steps_ms.append(self._milliseconds)
            self.works.append(tuple(self._works))
        elif self._milliseconds:
            self.left_out += 1
        self._milliseconds, self._counts, self._works = 0.0, True, []
