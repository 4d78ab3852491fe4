"""Whether a call that ran compiled gave as a whole what it gives uncompiled."""

from __future__ import annotations

from ...blocks.parity import Parity

#: A result of many blocks may differ by so many times what one block may: they pass their differences on.
TIMES = 4.0

#: But by no more than this, relative to its size, or than one block may: what is called is a picture, or steers one.
#: In bfloat16 that is 4 %: there the tests' VAEs differ from float32 by up to 1.7 %, so that two ways of computing
#: that are both right may be 2.4 % apart, and larger VAEs have more blocks.
MOST = 0.02

#: Why a part runs uncompiled that keeps something between its blocks, or draws random numbers.
DIFFERS = "a compiled call as a whole gave another result than an uncompiled one, though each of its blocks was right."


def is_right(parity: Parity) -> bool:
    """Whether a compiled result as a whole is as near to the uncompiled one as it must be."""
    return parity.relative <= min(TIMES * parity.tolerance, max(MOST, parity.tolerance))
