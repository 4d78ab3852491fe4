"""Step times of a model by shape, and which way the next step should be run to learn more."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from .pairs import LEAD, MOST_PAIRS, Pair, compiled_first, faster, spread, typical

#: What another shape's decision is worth for a new one, in pairs.
HEAD_START = LEAD // 2

#: Pairs in all of a shape that stays undecided: one more in each sampling after the first ``MOST_PAIRS``.
LAST_PAIRS = 2 * MOST_PAIRS

#: Compiled steps after a decision until it may be doubted for the first time; then twice as many, and so on.
PATIENCE = 50

#: The last compiled steps that are looked at then, and how many times as long as uncompiled ones took they must take.
LATE_STEPS = 15
DOUBTFUL = 1.25


@dataclass
class Trial:
    """Both ways of running steps of one shape.

    ``pairs`` are all that were timed, ``since`` the number of those before the decision was doubted; ``half`` is the
    first step of the next pair: whether it was compiled, and its time. ``late`` are the last of the ``steps_after`` a
    decision.
    """

    head_start: int = 0
    warm_up: float | None = None
    pairs: list[Pair] = field(default_factory=list)
    half: tuple[bool, float] | None = None
    since: int = 0
    allowed: int = MOST_PAIRS
    patience: int = PATIENCE
    steps_after: int = 0
    late: deque[float] = field(default_factory=lambda: deque(maxlen=LATE_STEPS))

    @property
    def kept(self) -> str | None:
        """``compiled`` or ``uncompiled`` when one is faster, None while it is not clear."""
        return faster(self.pairs[self.since :], self.head_start)

    @property
    def open(self) -> bool:
        """Whether more pairs are wanted now."""
        return self.kept is None and len(self.pairs) - self.since < self.allowed

    @property
    def uncompiled_next(self) -> bool:
        """Which way completes the pair, or begins the next one."""
        return self.half[0] if self.half else not compiled_first(len(self.pairs))

    def add(self, milliseconds: float, compiled: bool) -> None:
        if self.half is None or self.half[0] == compiled:
            self.half = (compiled, milliseconds)
            return
        first, self.half = self.half[1], None
        self.pairs.append((first, milliseconds) if compiled else (milliseconds, first))

    def add_late(self, milliseconds: float) -> None:
        """A compiled step after the decision, which costs nothing to look at. When they take much longer than
        uncompiled ones did, the decision is doubted: it is taken anew, from new pairs."""
        self.late.append(milliseconds)
        self.steps_after += 1
        if self.steps_after < self.patience or statistics.median(self.late) < DOUBTFUL * typical(self.pairs)[0]:
            return
        self.since, self.head_start, self.half, self.allowed = len(self.pairs), 0, None, MOST_PAIRS
        self.steps_after, self.patience = 0, 2 * self.patience
        self.late.clear()


class StepTimes:
    """Trials by shape. Two steps are compared only on the same shapes."""

    def __init__(self) -> None:
        self.trials: dict[Hashable, Trial] = {}
        self.ran_compiled = False

    def trial(self, shape: Hashable) -> Trial:
        """The trial of a shape. A new one starts from what the others showed, where they agree."""
        if shape not in self.trials:
            known = {trial.kept for trial in self.trials.values() if trial.kept is not None}
            agreed = known.pop() if len(known) == 1 else None
            self.trials[shape] = Trial({"compiled": HEAD_START, "uncompiled": -HEAD_START, None: 0}[agreed])
        return self.trials[shape]

    def begin_sampling(self) -> set[Hashable]:
        """Allows one more pair of each shape that is not clear yet; those shapes."""
        unclear = {s for s, t in self.trials.items() if t.kept is None and len(t.pairs) - t.since < LAST_PAIRS}
        for shape in unclear:
            trial = self.trials[shape]
            trial.allowed = max(MOST_PAIRS, len(trial.pairs) - trial.since + 1)
        return unclear

    def add(self, shape: Hashable, milliseconds: float, *, compiled: bool) -> None:
        """Notes one step. The first uncompiled one before any compiled one is a warm-up and belongs to no pair."""
        trial = self.trial(shape)
        self.ran_compiled |= compiled
        if not self.ran_compiled:
            trial.warm_up = milliseconds
        elif trial.open:
            trial.add(milliseconds, compiled)
        elif compiled and trial.kept == "compiled":
            trial.add_late(milliseconds)

    def open(self, shape: Hashable) -> bool:
        """Whether steps of this shape still have to be timed."""
        return self.trial(shape).open

    def warm_up_next(self, shape: Hashable) -> bool:
        """Whether nothing of these patches and settings has run yet: the first step runs uncompiled."""
        return not self.ran_compiled and self.trial(shape).warm_up is None

    def uncompiled_next(self, shape: Hashable) -> bool:
        """Whether the next step should run uncompiled, to be timed beside a compiled one."""
        trial = self.trial(shape)
        return self.ran_compiled and trial.open and trial.uncompiled_next

    def kept(self, shape: Hashable) -> str | None:
        """``compiled`` or ``uncompiled`` when one is faster, None while that is not clear."""
        return self.trial(shape).kept

    def typical(self, shape: Hashable) -> tuple[float | None, float | None]:
        """Milliseconds of a step uncompiled and compiled, from all pairs; before the first one, what is there."""
        trial = self.trial(shape)
        if trial.pairs:
            return typical(trial.pairs)
        if trial.half is None:
            return trial.warm_up, None
        compiled, milliseconds = trial.half
        return (trial.warm_up, milliseconds) if compiled else (milliseconds, None)

    def pairs(self, shape: Hashable) -> int:
        """How many pairs of a shape were timed."""
        return len(self.trial(shape).pairs)

    def spread(self, shape: Hashable) -> tuple[float, float] | None:
        """The middle half of the ratios uncompiled / compiled; None before the first pair."""
        trial = self.trial(shape)
        return spread(trial.pairs) if trial.pairs else None
