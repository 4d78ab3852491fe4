"""Whether a call that ran compiled gave as a whole what it gives uncompiled."""

from __future__ import annotations

from ...blocks.parity import Parity

#: A result of many blocks may differ by so many times what one block may: they pass their differences on.
TIMES = 4.0

#: And by so much relative to its size at most, whatever it computes in: what is called is a picture, or steers one.
MOST = 0.02

#: Why a part runs uncompiled that keeps something between its blocks, or draws random numbers.
DIFFERS = "a compiled call as a whole gave another result than an uncompiled one, though each of its blocks was right."


def is_right(parity: Parity) -> bool:
    return parity.relative <= min(TIMES * parity.tolerance, MOST)
