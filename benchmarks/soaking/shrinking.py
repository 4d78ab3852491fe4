"""Makes a list of changes that ends in a wrong picture as short as it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrunk(items: Sequence[T], fails: Callable[[list[T]], bool], tries: int = 60) -> list[T]:
    """The shortest list that still fails, found by leaving out halves, then quarters, down to single items. The last
    item stays. It ends after so many ``tries``, with what it has by then.

    >>> shrunk([1, 2, 3, 4, 5], lambda some: {2, 5} <= set(some))
    [2, 5]
    """
    kept, last = list(items[:-1]), list(items[-1:])
    size = max(1, len(kept) // 2)
    while kept and tries > 0:
        start, found = 0, False
        while start < len(kept) and tries > 0:
            fewer = kept[:start] + kept[start + size :]
            tries -= 1
            if fails([*fewer, *last]):
                kept, found = fewer, True
            else:
                start += size
        if size == 1 and not found:
            break
        size = max(1, size // 2)
    return [*kept, *last]
