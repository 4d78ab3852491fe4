"""What a session measures of its steps, and which way of running them it decides for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import torch

from ...measure.step_times import StepTimes, Work
from ...measure.stopwatch import PeakMemory, Stopwatch
from ...measure.verdict import verdict

#: An accelerator is waited for after each step that is compared, and after one of so many that are only looked at: a
#: prime, so that it is not always the same one of the steps of a caching node.
WAIT_EVERY = 11

#: Steps at the beginning of a sampling, and one of so many later ones, of which is noted which blocks they run even
#: where nothing is compiled.
LOOKS_FIRST, LOOK_EVERY = 2, 11

#: Pairs of steps that are timed for the record where nothing is decided by them.
PAIRS_TO_SHOW = 4


class Measuring:
    """Times and memory of one session's steps. ``shape`` is that of the step that runs or ran last, ``work`` says which
    blocks the last one ran; steps of what is in ``slow`` (times, shape, blocks) run uncompiled because compiled ones
    take longer, or as long as far as one can see. ``times`` belongs to the model and to what is active on it, so that
    another node finds it again. With ``by_turns`` some steps run uncompiled to be compared with compiled ones; a
    speed report compares whole samplings instead. With ``repeats`` the same call is timed again and again.
    """

    def __init__(self, device: torch.device, keep_faster: bool):
        self.keep_faster = keep_faster
        self.by_turns = True
        self.repeats = False
        self.times = StepTimes()
        self.shape: Hashable = None
        self.size = ""
        self.work: Work = ()
        self.slow: set[Hashable] = set()
        self.last_steps: deque[tuple[float, str, str]] = deque(maxlen=40)  # milliseconds, how they were run, size
        self.steps_per_image = 0
        self.peaks: dict[str, float | None] = {"eager_peak_mb": None, "compiled_peak_mb": None}
        self._steps = 0
        self._steps_in_all = 0
        self._waited = True
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
        if self.keep_faster:
            self.slow -= {(self.times, unclear) for unclear in self.times.begin_sampling()}

    def end_sampling(self) -> None:
        self.steps_per_image = self._steps

    def begin_step(self, shape: Hashable, size: str = "") -> bool:
        """Notes the shape of the next step, and the size of what it computes. True for the first one of a sampling."""
        self.shape, self.size = shape, size
        self._steps += 1
        self._steps_in_all += 1
        return self.begins

    @property
    def begins(self) -> bool:
        """Whether the step is the first one of a sampling."""
        return self._steps == 1

    @property
    def looks(self) -> bool:
        """Whether the step that begins is looked at even when nothing is compiled: another node may have come that
        skips blocks, or have gone; and the first steps after a decision tell whether it stands."""
        told = self.repeats or self.kept != "uncompiled" or self.times.followed(self.shape)
        return not told or self._steps <= LOOKS_FIRST or self._steps_in_all % LOOK_EVERY == 0

    def time(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """Runs a step: its result and its milliseconds."""
        told = self.settled and (self.kept is None or self.times.followed(self.shape))
        self._waited = self._stopwatch.device is None or not told or self._steps_in_all % WAIT_EVERY == 0
        self._peak_memory.start()
        return self._stopwatch.time(call, wait=self._waited)

    @property
    def waited(self) -> bool:
        """Whether the step that ran last has ended, wherever it was computed."""
        return self._waited

    @property
    def number(self) -> int:
        """Steps so far, of all samplings."""
        return self._steps_in_all

    def ran(self, work: Work) -> None:
        """Notes which blocks the step ran."""
        self.work = work
        if self.begins:
            self.times.begin()
        self.times.saw(self.shape, work)

    def note(self, milliseconds: float, kind: str) -> None:
        """Notes a step for the bars on the canvas, if it was waited for: else only handing the work over was timed.
        ``kind``: "uncompiled", "compiled" or "compiling"."""
        if not self._waited:
            return
        self.last_steps.append((round(milliseconds, 2), kind, self.size))

    def count(self, milliseconds: float, *, compiled: bool) -> None:
        """Notes a step that shows how long steps of its shape take."""
        if self._waited:
            self.times.add(self.shape, milliseconds, compiled=compiled, work=self.work)
            if self.times.open(self.shape):
                self.slow.discard(self._decided)
        phase = "compiled_peak_mb" if compiled else "eager_peak_mb"
        self.peaks = {**self.peaks, phase: self._peak_memory.read()}

    @property
    def uncompiled_next(self) -> bool:
        """Whether the step that begins runs uncompiled, to be compared with a compiled one."""
        return not self.settled and self.times.uncompiled_next(self.shape)

    def found_slow(self, gain_nothing: bool = False) -> bool:
        """Whether the user wants the faster way, and compiled steps were just found not to be it: slower, or no
        different after all the pairs that a sampling is worth; or blocks that ``gain_nothing`` were."""
        if self.is_slow or not self.keep_faster:
            return False
        if not gain_nothing and (not self.settled or self.kept == "compiled"):
            return False
        self.slow.add(self._decided)
        return True

    def decide(self) -> None:
        """Takes the pairs that there are of steps like the last one for a decision."""
        if self.keep_faster:
            self.times.decide(self.shape)

    @property
    def _decided(self) -> Hashable:
        """What a decision holds for."""
        return self.times, self.times.key(self.shape)

    @property
    def kept(self) -> str | None:
        """Which way is faster for steps like the last one, None while that is not clear."""
        return self.times.kept(self.shape)

    @property
    def is_slow(self) -> bool:
        """Whether steps like the last one run uncompiled because compiled ones are not faster."""
        return self._decided in self.slow

    @property
    def tells(self) -> bool:
        """Whether the pairs of steps like the last one say how many times as fast compiled ones are."""
        if self.repeats:
            enough = self.times.pairs(self.shape) > 1 or self.kept is not None
            return enough and self.times.alike(self.shape)
        return self.times.tells(self.shape) and self.times.stands(self.shape)

    @property
    def why_uncompiled(self) -> str | None:
        """Why steps like the last one run uncompiled, None when their times are no reason."""
        if not self.is_slow:
            return None
        uncompiled, compiled = self.times.typical(self.shape)
        is_same = bool(uncompiled and compiled) and verdict((uncompiled or 0) / (compiled or 1)) == "same"
        if self.kept == "uncompiled" and not is_same and self.tells:
            return "compiled, it took longer than uncompiled."
        spread = self.times.spread(self.shape)
        if spread is None:
            return "no two steps ran the same blocks, uncompiled and compiled, so that nothing shows a gain."
        low, high = spread
        return (
            f"no clear gain: compiled, it ran {low:.2f}× to {high:.2f}× as fast (the middle half of"
            f" {self.times.pairs(self.shape)} comparisons)."
        )

    @property
    def settled(self) -> bool:
        """Whether steps like the last one need not be timed any more."""
        if not self.by_turns:
            return self.times.ran_compiled
        enough = not self.keep_faster and self.times.pairs(self.shape) >= PAIRS_TO_SHOW
        return enough or not self.times.open(self.shape)
