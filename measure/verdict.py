"""What counts as faster, as slower and as no gain. Records, pages and pictures are told; none of them decides it."""

from __future__ import annotations

from typing import Literal

Verdict = Literal["faster", "slower", "same"]

#: Times that differ by less than this factor are the same: what lies between is noise of the machine.
NOISE = 1.03


def verdict(speedup: float) -> Verdict:
    """What an uncompiled time by a compiled one means: 1.62 is "faster", 0.5 "slower", 0.98 and 1.02 are "same"."""
    if speedup >= NOISE:
        return "faster"
    return "slower" if speedup * NOISE <= 1 else "same"


def within_spread(speedup: float, spread: tuple[float, float]) -> bool:
    """Whether pairs of steps differ more among themselves than one way differs from the other: 1.1 in 0.95 … 1.4."""
    low, high = spread
    return high - low > abs(speedup - 1)
