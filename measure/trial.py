"""Both ways of running steps that are alike, until one of them is faster, and whether later steps agree with that."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

from .pairs import LEAD, MOST_PAIRS, Order, Pair, agree, faster, middle_half, ratios, typical

#: Steps after a decision until it may be doubted for the first time; then twice as many, and so on.
PATIENCE = 50

#: The last steps that are looked at then. Doubtful: so many times as long as the other way, or as the figures.
LATE_STEPS = 15
DOUBTFUL = 1.25

#: Fewer steps contradict what is shown already, so many of the last few.
LAST_STEPS, FEWEST_STEPS = 5, 3

#: Steps after the pairs until these may be given as a figure, and one of how many may take another time than those of
#: the pairs. Where the order of four pairs met times with a period of up to 8, at most four steps in a row are alike.
FOLLOWING, STRAY_OF = 5, 6


def _last_steps() -> dict[bool, deque[float]]:
    return {compiled: deque(maxlen=LATE_STEPS) for compiled in (False, True)}


@dataclass
class Trial:
    """Both ways of running steps that are alike: of one shape, and with the same blocks.

    ``kept`` is the faster way (``compiled`` or ``uncompiled``), None while it is not clear. ``half`` is the first step
    of the next pair: whether it was compiled, and its time. ``last`` are the last of the ``unpaired`` steps, which went
    into no pair, by whether they were compiled; once it is decided, those since. The ``head_start`` counts where the
    pairs show about the ratio of the shapes it comes from, ``elsewhere``.
    """

    order: Order
    head_start: int = 0
    elsewhere: float | None = None
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
        return self.half[0] if self.half else not self.order.compiled_first(len(self.pairs))

    def add(self, milliseconds: float, compiled: bool) -> None:
        if self.open and self.half is not None and self.half[0] != compiled:
            first, self.half = self.half[1], None
            self.pairs.append((first, milliseconds) if compiled else (milliseconds, first))
            self.kept = faster(self.pairs, self.head_start if self._is_as_elsewhere() else 0)
            if self.kept is not None:
                self.unpaired, self.last = 0, _last_steps()
            return
        if self.open:
            waits, self.half = self.half is not None, (compiled, milliseconds)
            if not waits:
                return
        self.unpaired += 1
        self.last[compiled].append(milliseconds)
        if self.unpaired >= self.patience and self._doubtful(compiled):
            self._begin_anew()

    def _is_as_elsewhere(self) -> bool:
        found = statistics.median(ratios(self.pairs))
        return self.elsewhere is None or 1 / DOUBTFUL <= found / self.elsewhere <= DOUBTFUL

    @property
    def followed(self) -> bool:
        """Whether there were enough steps since the pairs to tell whether they are such as those."""
        return any(len(last) >= FOLLOWING for last in self.last.values())

    @property
    def strays(self) -> bool:
        """Whether many of the last steps take another time than those of their way in the pairs: times of two kinds,
        which may have met the order of the pairs."""
        if not self.pairs:
            return False
        took = [statistics.median(times) for times in zip(*self.pairs, strict=True)]
        return any(
            sum(not 1 / DOUBTFUL <= one / took[compiled] <= DOUBTFUL for one in last) > len(last) // STRAY_OF
            for compiled, last in self.last.items()
            if len(last) >= FOLLOWING
        )

    @property
    def tells(self) -> bool:
        """Whether the pairs tell how many times as fast compiled steps are: they agree, and so do the steps since. Of
        fewer than ``LEAD`` pairs they do where another shape showed about the same."""
        enough = len(self.pairs) >= LEAD or self.kept is not None
        followed = self.followed or (self.kept is None and len(self.pairs) >= MOST_PAIRS)
        return enough and followed and agree(self.pairs) and not self.strays

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
        apart = self.strays or (self.kept is not None and not agree(self.pairs))
        return slow or apart or self.contradicted(compiled, LATE_STEPS)

    def _begin_anew(self) -> None:
        """The decision is taken anew, from new pairs."""
        self.pairs, self.head_start, self.elsewhere, self.half, self.kept = [], 0, None, None, None
        self.order = self.order.anew()
        self.allowed, self.unpaired, self.patience = MOST_PAIRS, 0, 2 * self.patience
        self.last = _last_steps()
