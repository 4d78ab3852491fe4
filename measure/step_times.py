"""Step times of a model by shape and by the blocks that ran, and which way the next step should be run to learn more.

A caching node lets the model skip blocks in some of its steps. Which blocks a step ran is known only after it, which
way it is to run must be decided before; so times are filed by the blocks that ran, and the steps to come are taken for
those that most of the work went into lately.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from .pairs import LEAD, MOST_PAIRS, Pair, alike, compiled_first, faster, gain, middle_half, spread, typical

Work = tuple[int, ...]
"""How often a step called each of the model's blocks."""

#: What another shape's decision is worth for a new one, in pairs.
HEAD_START = LEAD // 2

#: Pairs in all of a shape that stays undecided: one more in each sampling after the first ``MOST_PAIRS``.
LAST_PAIRS = 2 * MOST_PAIRS

#: Uncompiled steps that may be spent on pairs of a shape: where hardly two run the same blocks, pairs are rare.
MOST_SPENT, SPENT_A_PAIR = 3 * MOST_PAIRS, 3

#: Steps after a decision until it may be doubted for the first time; then twice as many, and so on.
PATIENCE = 50

#: The last steps that are looked at then. Doubtful: so many times as long as the other way, or as the figures.
LATE_STEPS = 15
DOUBTFUL = 1.25

#: Fewer steps contradict what is shown already, so many of the last few.
LAST_STEPS, FEWEST_STEPS = 5, 3

#: Steps that tell what blocks are run lately; what ran in others of the shape is kept for so many sets of blocks.
RECENT, MOST_WORKS = 16, 32


def _last_steps() -> dict[bool, deque[float]]:
    return {compiled: deque(maxlen=LATE_STEPS) for compiled in (False, True)}


@dataclass
class Trial:
    """Both ways of running steps that are alike: of one shape, and with the same blocks.

    ``kept`` is the faster way (``compiled`` or ``uncompiled``), None while it is not clear. ``half`` is the first step
    of the next pair: whether it was compiled, and its time. ``last`` are the last of the ``unpaired`` steps, which went
    into no pair, by whether they were compiled.
    """

    head_start: int = 0
    pairs: list[Pair] = field(default_factory=list)
    half: tuple[bool, float] | None = None
    kept: str | None = None
    allowed: int = MOST_PAIRS
    patience: int = PATIENCE
    unpaired: int = 0
    last: dict[bool, deque[float]] = field(default_factory=_last_steps)

    @property
    def open(self) -> bool:
        """Whether more pairs are wanted now."""
        return self.kept is None and len(self.pairs) < self.allowed

    @property
    def uncompiled_next(self) -> bool:
        """Which way completes the pair, or begins the next one."""
        return self.half[0] if self.half else not compiled_first(len(self.pairs))

    def add(self, milliseconds: float, compiled: bool) -> None:
        if self.open and self.half is not None and self.half[0] != compiled:
            first, self.half = self.half[1], None
            self.pairs.append((first, milliseconds) if compiled else (milliseconds, first))
            self.kept = faster(self.pairs, self.head_start)
            return
        if self.open:
            waits, self.half = self.half is not None, (compiled, milliseconds)
            if not waits:
                return
        self.unpaired += 1
        self.last[compiled].append(milliseconds)
        if self.unpaired >= self.patience and self._doubtful(compiled):
            self._begin_anew()

    def contradicted(self, compiled: bool, steps: int = LAST_STEPS) -> bool:
        """Whether the last steps of a way take much longer, or much less, than those of its pairs."""
        last = list(self.last[compiled])[-steps:]
        if not self.pairs or len(last) < FEWEST_STEPS:
            return False
        low, high = middle_half([pair[compiled] for pair in self.pairs])
        return not low / DOUBTFUL <= statistics.median(last) <= high * DOUBTFUL

    def now(self, compiled: bool) -> float | None:
        """Milliseconds of the last steps of a way; of the pairs before there are any."""
        if self.last[compiled]:
            return statistics.median(list(self.last[compiled])[-LAST_STEPS:])
        return typical(self.pairs)[compiled] if self.pairs else None

    def _doubtful(self, compiled: bool) -> bool:
        """Whether steps of no pair, which cost nothing to look at, contradict the decision, or the pairs' figures."""
        if not self.pairs:
            return False
        other_way = typical(self.pairs)[not compiled]
        is_kept = self.kept == ("compiled" if compiled else "uncompiled")
        slow = is_kept and statistics.median(self.last[compiled]) >= DOUBTFUL * other_way
        return slow or self.contradicted(compiled, LATE_STEPS)

    def _begin_anew(self) -> None:
        """The decision is taken anew, from new pairs."""
        self.pairs, self.head_start, self.half, self.kept = [], 0, None, None
        self.allowed, self.unpaired, self.patience = MOST_PAIRS, 0, 2 * self.patience
        self.last = _last_steps()


class ShapeTimes:
    """Trials of one shape by the blocks that ran. ``work`` is what most blocks ran for in the last steps, so that its
    trial decides for the next one; None before the first step."""

    def __init__(self) -> None:
        self.trials: dict[Work, Trial] = {}
        self.warm_up: float | None = None
        self.work: Work | None = None
        self.spent = 0
        self.most_spent = MOST_SPENT
        self._recent: deque[Work] = deque(maxlen=RECENT)
        self._same = 0  # steps in a row that ran the same blocks

    def saw(self, work: Work) -> None:
        """Notes which blocks a step ran."""
        self._same = self._same + 1 if self._recent and self._recent[-1] == work else 1
        self._recent.append(work)
        if self._same >= len(self._recent):
            self.work = work
        else:
            self.work = max(Counter(self._recent).items(), key=lambda ran: ran[1] * max(1, sum(ran[0])))[0]

    def begin(self) -> None:
        """Another sampling begins: what the last one ran tells nothing of this one but for its first step."""
        self._recent.clear()

    @property
    def recent(self) -> list[tuple[int, Trial]]:
        """The trials of what the last steps ran, and how many of the steps; without steps that were not timed."""
        if not self._recent:
            return [(1, trial) for work, trial in self.trials.items() if work == self.work]
        return [(count, self.trials[work]) for work, count in Counter(self._recent).items() if work in self.trials]

    def new_trial(self, work: Work, head_start: int) -> Trial:
        """A trial of these blocks. One that has not been seen for long makes room for it."""
        if len(self.trials) >= MOST_WORKS:
            del self.trials[next(known for known in self.trials if known not in self._recent)]
        trial = self.trials[work] = Trial(head_start)
        return trial


class StepTimes:
    """Trials by shape. Two steps are compared only on the same shapes, and when they ran the same blocks."""

    def __init__(self) -> None:
        self.shapes: dict[Hashable, ShapeTimes] = {}
        self.ran_compiled = False

    def saw(self, shape: Hashable, work: Work) -> None:
        """Notes which blocks a step ran, timed or not."""
        self._of(shape).saw(work)

    def begin(self) -> None:
        """The first step of a sampling was run: what the one before ran counts no more."""
        for times in self.shapes.values():
            times.begin()

    def begin_sampling(self) -> set[Hashable]:
        """Allows one more pair of each shape that is not clear yet; the ``key`` of those shapes."""
        unclear = set()
        for shape, times in self.shapes.items():
            trial = self._trial(shape)
            if trial.kept is None and len(trial.pairs) < LAST_PAIRS and times.spent < 2 * MOST_SPENT:
                trial.allowed = max(MOST_PAIRS, len(trial.pairs) + 1)
                times.most_spent = max(MOST_SPENT, times.spent + SPENT_A_PAIR)
                unclear.add(self.key(shape))
        return unclear

    def add(self, shape: Hashable, milliseconds: float, *, compiled: bool, work: Work = ()) -> None:
        """Notes the time of one step. An uncompiled one before any compiled one is a warm-up, of no pair."""
        times = self._of(shape)
        if times.work is None:
            times.saw(work)
        self.ran_compiled |= compiled
        if not self.ran_compiled:
            times.warm_up = milliseconds
            return
        trial = self._trial_of(times, work)
        pairs = trial.pairs
        times.spent += self.open(shape) and not compiled
        trial.add(milliseconds, compiled)
        if trial.pairs is not pairs:  # it is doubted
            times.spent, times.most_spent = 0, MOST_SPENT

    def key(self, shape: Hashable) -> Hashable:
        """The shape and the blocks for which the next step is decided."""
        return shape, self._of(shape).work

    def open(self, shape: Hashable) -> bool:
        """Whether steps of this shape still have to be timed."""
        times = self._of(shape)
        return self._trial(shape).open and times.spent < times.most_spent

    def warm_up_next(self, shape: Hashable) -> bool:
        """Whether nothing of these patches and settings has run yet: the first step runs uncompiled."""
        return not self.ran_compiled and self._of(shape).warm_up is None

    def uncompiled_next(self, shape: Hashable) -> bool:
        """Whether the next step should run uncompiled, to be timed beside a compiled one."""
        return self.ran_compiled and self.open(shape) and self._trial(shape).uncompiled_next

    def kept(self, shape: Hashable) -> str | None:
        """``compiled`` or ``uncompiled`` when one is faster, None while that is not clear."""
        return self._trial(shape).kept

    def decide(self, shape: Hashable) -> None:
        """Takes the few pairs of a shape for a decision, where nobody waits for more."""
        trial = self._trial(shape)
        if trial.kept is None and trial.pairs:
            trial.kept = "compiled" if gain(trial.pairs) == "faster" else "uncompiled"

    def stands(self, shape: Hashable) -> bool:
        """Whether the last steps agree with the pairs, all that ran lately with their share."""
        compared = self._compared(shape)
        for way in (False, True):
            if any(trial.contradicted(way) for _, trial in compared):
                then = sum(count * typical(trial.pairs)[way] for count, trial in compared)
                now = sum(count * (trial.now(way) or 0) for count, trial in compared)
                if not then / DOUBTFUL <= now <= then * DOUBTFUL:
                    return False
        return True

    def typical(self, shape: Hashable) -> tuple[float | None, float | None]:
        """Milliseconds of a step uncompiled and compiled, from all pairs; before the first, what is there. The mean of
        what the last steps ran, each with its share."""
        trial, compared = self._trial(shape), self._compared(shape)
        if compared:
            steps = sum(count for count, _ in compared)
            found = [(count, typical(trial.pairs)) for count, trial in compared]
            return (
                sum(count * pair[0] for count, pair in found) / steps,
                sum(count * pair[1] for count, pair in found) / steps,
            )
        warm_up = self._of(shape).warm_up
        if trial.half is None:
            return warm_up, None
        compiled, milliseconds = trial.half
        return (warm_up, milliseconds) if compiled else (milliseconds, None)

    def now(self, shape: Hashable, *, compiled: bool) -> float | None:
        """Milliseconds of the last steps of a way, all that ran lately with their share; None before the first."""
        found = [(count, trial.now(compiled)) for count, trial in self._of(shape).recent]
        told = [(count, milliseconds) for count, milliseconds in found if milliseconds is not None]
        return sum(count * ms for count, ms in told) / sum(count for count, _ in told) if told else None

    def pairs(self, shape: Hashable) -> int:
        """How many pairs of a shape were timed."""
        return len(self._trial(shape).pairs)

    def spread(self, shape: Hashable) -> tuple[float, float] | None:
        """The middle half of the ratios uncompiled / compiled; None before the first pair."""
        trial = self._trial(shape)
        return spread(trial.pairs) if trial.pairs else None

    def alike(self, shape: Hashable) -> bool:
        """Whether the pairs of a shape, one at least, compared like with like, so that their ratio says something."""
        return alike(self._trial(shape).pairs)

    def _of(self, shape: Hashable) -> ShapeTimes:
        if shape not in self.shapes:
            self.shapes[shape] = ShapeTimes()
        return self.shapes[shape]

    def _trial(self, shape: Hashable) -> Trial:
        """The trial that decides for the next step of a shape."""
        times = self._of(shape)
        return Trial() if times.work is None else self._trial_of(times, times.work)

    def _trial_of(self, times: ShapeTimes, work: Work) -> Trial:
        """The trial of these blocks, made at the first call. It starts from what other shapes agree on."""
        if work in times.trials:
            return times.trials[work]
        trials = [other.trials.get(work) for other in self.shapes.values()]
        known = {trial.kept for trial in trials if trial is not None and trial.kept is not None}
        agreed = known.pop() if len(known) == 1 else None
        return times.new_trial(work, {"compiled": HEAD_START, "uncompiled": -HEAD_START, None: 0}[agreed])

    def _compared(self, shape: Hashable) -> list[tuple[int, Trial]]:
        """Of what the last steps ran, the trials with pairs, and how many steps; none without most of the work."""
        recent = self._of(shape).recent if self._trial(shape).pairs else []
        return [(count, trial) for count, trial in recent if trial.pairs]
