"""Results that are made once: for good, or while somebody uses them. Both keep the function's own type."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

F = TypeVar("F", bound=Callable)


def cached(function: F) -> F:
    """Remembers every result, and the arguments, for good: for classes, names and sizes, never for what holds weights.

    functools.cache, which type checkers keep from module classes: in torch's stubs those are not Hashable.
    """
    return cast(F, functools.cache(function))


def shared(function: F) -> F:
    """Gives one result for the same arguments while anybody holds it, and keeps neither alive.

    Arguments are told apart by identity, so the result must hold them, as a closure does.
    """
    results: WeakValueDictionary[tuple[int, ...], Any] = WeakValueDictionary()

    @functools.wraps(function)
    def once(*args: Any) -> Any:
        key = tuple(map(id, args))
        result = results.get(key)
        if result is None:
            result = results[key] = function(*args)
        return result

    return cast(F, once)
