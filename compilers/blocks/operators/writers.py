"""Which foreign functions write into what they are given.

Seen at their first call: the arguments are compared with what they were. Tensors of inference mode do not count their
changes, so nothing else would tell.
"""

from __future__ import annotations

import itertools
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch

#: Functions of which it is known. Some nodes make a new one for every picture.
MOST_KNOWN = 1024


class Writers:
    def __init__(self) -> None:
        self._known: dict[tuple, tuple[list[weakref.ref], int]] = {}
        self._numbers = itertools.count(1)

    def writes(self, function: Callable) -> bool | None:
        """Whether a function writes; None when it was never called, or cannot be told from others."""
        number = self.number(function)
        return None if number is None else number > 0

    def number(self, function: Callable) -> int | None:
        """0 for a function that does not write, another number for each one that does, None for an unknown one."""
        known = self._known.get(_name(function))
        if known is None or any(ref() is not part for ref, part in zip(known[0], _parts(function), strict=True)):
            return None
        return known[1]

    def note(self, function: Callable, writes: bool) -> None:
        """Notes what a call of a function did. What wrote once is a writer."""
        if self.number(function) is not None and not (writes and self.number(function) == 0):
            return
        try:
            parts = [weakref.ref(part) for part in _parts(function)]
        except TypeError:
            return
        if len(self._known) >= MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[_name(function)] = (parts, next(self._numbers) if writes else 0)


def _parts(function: Callable) -> tuple[Any, ...]:
    """What makes a function the one that it is: a bound method is a new object at each look."""
    if isinstance(function, types.MethodType):
        return (function.__self__, function.__func__)
    return (function,)


def _name(function: Callable) -> tuple:
    return tuple(id(part) for part in _parts(function))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one form hold the same values, NaN included."""
    return bool(((a == b) | ((a != a) & (b != b))).all())


WRITERS = Writers()
