"""Whether a call that ran compiled gave as a whole what it gives uncompiled."""

from __future__ import annotations

from ...blocks.parity import Parity

#: A result of many blocks may differ by so many times what one block may: they pass their differences on.
TIMES = 4.0

#: But by no more than this, relative to its size, or than one block may: what is called is a picture, or steers one.
#: In bfloat16 that is 4 %: the small VAE of the tests, 9 blocks of Stable Diffusion's, is right and 1.9 % off through
#: Inductor on a CPU. Its roundings are 1.6 % beside float32, and real ones have more blocks.
MOST = 0.02

#: Why a part runs uncompiled that keeps something between its blocks, or draws random numbers.
DIFFERS = "a compiled call as a whole gave another result than an uncompiled one, though each of its blocks was right."


def is_right(parity: Parity) -> bool:
    """Whether a compiled result as a whole is as near to the uncompiled one as it must be."""
    return parity.relative <= min(TIMES * parity.tolerance, max(MOST, parity.tolerance))
