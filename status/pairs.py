"""Decides from pairs of steps which way of running a model is faster.

A pair is an uncompiled and a compiled step of the same shape, one right after the other, in milliseconds. Whatever
slows the machine for longer than a step slows both, so that only their order in the pair counts: a spike spoils one
pair, however high it is. Everything here is a function of the times alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Pair = tuple[float, float]
"""Milliseconds uncompiled, milliseconds compiled."""

#: A way is faster when it won this many pairs more than the other. The first four pairs decide only if all agree; where
#: 70 % of the pairs are right, 97 % of the decisions are (a random walk between two bounds: 1 / (1 + (3/7)⁴)).
LEAD = 4

#: Without a decision after so many pairs the difference is within the spread.
MOST_PAIRS = 16


def compiled_first(number: int) -> bool:
    """Which way the pair of this number (from 0) starts with. Pairs take turns (c u, u c, c u …), so that a machine
    that gets slower and slower favours neither."""
    return number % 2 == 0


def lead(pairs: Sequence[Pair]) -> int:
    """Pairs that the compiled step won, less those that it lost."""
    return sum((uncompiled > compiled) - (uncompiled < compiled) for uncompiled, compiled in pairs)


def faster(pairs: Sequence[Pair], head_start: int = 0) -> str | None:
    """``compiled`` or ``uncompiled``, as soon as one leads by ``LEAD`` pairs; None while neither does.

    Args:
        head_start: pairs that compiled ones are ahead before the first, from what other shapes showed; may be negative.
    """
    ahead = head_start + lead(pairs)
    return None if abs(ahead) < LEAD else "compiled" if ahead > 0 else "uncompiled"


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


def spread(pairs: Sequence[Pair]) -> Pair:
    """The middle half of the ratios, lowest and highest; all of them where there are fewer than four."""
    found = sorted(ratios(pairs))
    if len(found) < 4:
        return found[0], found[-1]
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return low, high
