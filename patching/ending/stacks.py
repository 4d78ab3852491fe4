"""What other threads run, seen without keeping anything of theirs.

A thread that holds another one's frame when that one goes on is the one to end it, and with it what it holds. PyTorch
keeps the state of a thread (inference mode, gradients, modes of dispatch) in objects that set it back where they end:
in the wrong thread that leaves Dynamo with another state than it had ("Global grad_mode state changed"), or crashes.
So a look is one call of C code, during which Python gives no other thread its turn, and code is all that it brings.
(Where somebody has put a hook for audits into the process, that is asked in the middle: Python tells it of ``f_code``.)
"""

from __future__ import annotations

import contextlib
import gc
import operator
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, chain, repeat, starmap, takewhile
from types import CodeType, FrameType
from typing import Any

_CODE_AND_LINE = operator.attrgetter("f_code", "f_lineno")


def threads() -> list[int]:
    """The numbers of all threads that run Python code."""
    with _nothing_collected():
        return list(chain.from_iterable(starmap(sys._current_frames, [()])))


def stack_of(ident: int, base: FrameType | None = None) -> list[tuple[CodeType, int]]:
    """The code that a thread runs and the lines that it is at, innermost first, above the frame ``base`` where it is
    given. Nothing for a thread that has ended."""
    top = map(operator.getitem, starmap(sys._current_frames, [()]), (ident,))
    step: Callable[[Any, Any], Any] = getattr
    frames = accumulate(chain(top, repeat("f_back")), step)
    above = takewhile(partial(operator.is_not, base), takewhile(partial(operator.is_not, None), frames))
    with _nothing_collected():
        try:
            return list(map(_CODE_AND_LINE, above))
        except KeyError:
            return []


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """Python's collector may run people's code, in which other threads get their turn."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
