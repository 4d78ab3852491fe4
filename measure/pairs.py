"""Decides from pairs of steps which way of running a model is faster.

A pair is an uncompiled and a compiled step of the same shape that ran the same blocks, in milliseconds, one soon after
the other. Whatever slows the machine for longer than that slows both, so that only their order in the pair counts: a
spike spoils one pair, however high it is. Everything here is a function of the times alone.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

from .verdict import Verdict, verdict

Pair = tuple[float, float]
"""Milliseconds uncompiled, milliseconds compiled."""

#: A way is faster when it won this many pairs more than the other. The first four pairs decide only if all agree; where
#: 70 % of the pairs are right, 97 % of the decisions are (a random walk between two bounds: 1 / (1 + (3/7)⁴)).
LEAD = 4

#: Without a decision after so many pairs the difference is within the spread.
MOST_PAIRS = 16

#: Pairs whose ratios differ by more than noise did not compare like with like, and decide nothing: the middle half
#: reaches further than ``FAR`` to either side of 1, or spans more than ``WIDE``.
FAR = 1.5
WIDE = 3

#: Pairs agree on a figure when the middle half of their ratios spans no more: steps of two kinds, one of them half as
#: long again as the other, give pairs further apart.
NEAR = 1.25

#: What orders are drawn from, so that the same steps of a first picture run compiled after each start. The first pairs
#: begin u, c, c, u (or the other way round), in step with times of period 6 and 8 only.
SEED = 0

_ARRANGEMENTS = ((0, 0, 1, 1), (0, 1, 0, 1), (0, 1, 1, 0), (1, 0, 0, 1), (1, 0, 1, 0), (1, 1, 0, 0))


class Order:
    """Which way each pair starts with. Permuted blocks, as in clinical trials (Matts and Lachin 1988,
    doi:10.1016/0197-2456(88)90047-5): of every four pairs two begin with each way, so that a machine that gets slower
    and slower favours neither. Which two is drawn anew for each trial: whatever order is fixed, some period of the
    times runs in step with it, and is taken for a gain each time.

    Args:
        draw: where chance comes from; by default the same after each start.
    """

    def __init__(self, draw: random.Random | None = None):
        self._draw = draw or random.Random(SEED)
        self._drawn: list[int] = []

    def compiled_first(self, number: int) -> bool:
        """Whether the pair of this number (from 0) starts with its compiled step."""
        while len(self._drawn) <= number:
            self._drawn += self._draw.choice(_ARRANGEMENTS)
        return bool(self._drawn[number])

    def anew(self) -> Order:
        """Another order, from the same source."""
        return Order(self._draw)


def lead(pairs: Sequence[Pair]) -> int:
    """Pairs that the compiled step won, less those that it lost."""
    return sum((uncompiled > compiled) - (uncompiled < compiled) for uncompiled, compiled in pairs)


def alike(pairs: Sequence[Pair]) -> bool:
    """Whether the ratios lie near enough to each other to say anything: not for 0.3, 0.9, 1.1 and 4.6."""
    low, high = spread(pairs)
    return high <= WIDE * low and not (low < 1 / FAR and high > FAR)


def agree(pairs: Sequence[Pair]) -> bool:
    """Whether the pairs show the same figure: 1.5, 1.6, 1.5 and 1.4 do, 1.5, 1.5, 2.3 and 2.3 do not, although they
    show which way is faster."""
    low, high = spread(pairs)
    return high <= NEAR * low


def faster(pairs: Sequence[Pair], head_start: int = 0) -> str | None:
    """``compiled`` or ``uncompiled``, as soon as one leads by ``LEAD`` pairs; None while neither does, and where the
    pairs are not ``alike``.

    Args:
        head_start: pairs that compiled ones are ahead before the first, from what other shapes showed; may be negative.
    """
    ahead = head_start + lead(pairs)
    if abs(ahead) < LEAD or not alike(pairs):
        return None
    return "compiled" if ahead > 0 else "uncompiled"


def ratios(pairs: Sequence[Pair]) -> list[float]:
    """How many compiled steps fit into the time of an uncompiled one, for each pair."""
    return [uncompiled / compiled for uncompiled, compiled in pairs]


def typical(pairs: Sequence[Pair]) -> Pair:
    """What a step takes both ways: the median speed of the machine during the pairs, divided by the median ratio.

    Medians of each way alone would lie on a machine with two speeds: one may fall into fast times, the other into slow
    ones. For (30, 20), (30, 20), (90, 60) it is (30, 20).
    """
    level = statistics.median(math.sqrt(uncompiled * compiled) for uncompiled, compiled in pairs)
    half = math.sqrt(statistics.median(ratios(pairs)))
    return level * half, level / half


def gain(pairs: Sequence[Pair]) -> Verdict:
    """What the pairs show, however few: "faster" for (30, 20)."""
    uncompiled, compiled = typical(pairs)
    return verdict(uncompiled / compiled)


def spread(pairs: Sequence[Pair]) -> Pair:
    """The middle half of the ratios, lowest and highest; all of them where there are fewer than four."""
    return middle_half(ratios(pairs))


def middle_half(values: Sequence[float]) -> Pair:
    """Where the middle half of some values lies; all of them where there are fewer than four."""
    found = sorted(values)
    if len(found) < 4:
        return found[0], found[-1]
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return low, high
