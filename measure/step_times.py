"""Step times of a model by shape and by the blocks that ran, and which way the next step should be run to learn more.

A caching node lets the model skip blocks in some of its steps. Which blocks a step ran is known only after it, which
way it is to run must be decided before; so times are filed by the blocks that ran, and the steps to come are taken for
those that most of the work went into lately.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter, deque
from collections.abc import Hashable

from .pairs import LEAD, MOST_PAIRS, SEED, Order, alike, gain, spread, typical
from .trial import DOUBTFUL, Trial

Work = tuple[int, ...]
"""How often a step called each of the model's blocks."""

#: What another shape's decision is worth for a new one, in pairs.
HEAD_START = LEAD // 2

#: Pairs in all of a shape that stays undecided: one more in each sampling after the first ``MOST_PAIRS``.
LAST_PAIRS = 2 * MOST_PAIRS

#: Uncompiled steps that may be spent on pairs of a shape: where hardly two run the same blocks, pairs are rare.
MOST_SPENT, SPENT_A_PAIR = 3 * MOST_PAIRS, 3

#: Steps that tell what blocks are run lately; what ran in others of the shape is kept for so many sets of blocks.
RECENT, MOST_WORKS = 16, 32


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

    def file(self, work: Work, trial: Trial) -> None:
        """Files the trial of these blocks. One that has not been seen for long makes room for it."""
        if len(self.trials) >= MOST_WORKS:
            del self.trials[next(known for known in self.trials if known not in self._recent)]
        self.trials[work] = trial


class StepTimes:
    """Trials by shape. Two steps are compared only on the same shapes, when they ran the same blocks. In which order
    they are is drawn from ``draw``, by default the same chance after each start."""

    def __init__(self, draw: random.Random | None = None) -> None:
        self._draw = draw or random.Random(SEED)
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
        if compared and self._trial(shape).strays:
            return False
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

    def followed(self, shape: Hashable) -> bool:
        """Whether enough steps were timed since the pairs to tell whether they are such as those."""
        return self._trial(shape).followed

    def alike(self, shape: Hashable) -> bool:
        """Whether the pairs of a shape, one at least, compared like with like, so that their ratio says something."""
        return alike(self._trial(shape).pairs)

    def tells(self, shape: Hashable) -> bool:
        """Whether the pairs of a shape agree on how many times as fast a step is, and the steps since with them."""
        return self._trial(shape).tells

    def _of(self, shape: Hashable) -> ShapeTimes:
        if shape not in self.shapes:
            self.shapes[shape] = ShapeTimes()
        return self.shapes[shape]

    def _trial(self, shape: Hashable) -> Trial:
        """The trial that decides for the next step of a shape."""
        times = self._of(shape)
        return Trial(Order(self._draw)) if times.work is None else self._trial_of(times, times.work)

    def _trial_of(self, times: ShapeTimes, work: Work) -> Trial:
        """The trial of these blocks, made at the first call. It starts from what other shapes agree on."""
        if work in times.trials:
            return times.trials[work]
        found = [trial for other in self.shapes.values() if (trial := other.trials.get(work)) and trial.kept]
        agreed = found[0].kept if len({trial.kept for trial in found}) == 1 else None
        trial = Trial(Order(self._draw))
        if agreed is not None:
            trial.head_start = HEAD_START if agreed == "compiled" else -HEAD_START
            known = [typical(other.pairs) for other in found]
            trial.elsewhere = statistics.median(uncompiled / compiled for uncompiled, compiled in known)
        times.file(work, trial)
        return trial

    def _compared(self, shape: Hashable) -> list[tuple[int, Trial]]:
        """Of what the last steps ran, the trials with pairs, and how many steps; none without most of the work."""
        recent = self._of(shape).recent if self._trial(shape).pairs else []
        return [(count, trial) for count, trial in recent if trial.pairs]
