"""Results that are made once: for good, or while somebody uses them. Both keep the function's own type.

Classes, functions and objects are told apart by identity: a person's class, or its metaclass, may compare as it likes,
never return, or have no hash.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast
from weakref import WeakValueDictionary, ref

F = TypeVar("F", bound=Callable)
T = TypeVar("T")


class Same:
    """Stands for an object in a key: equal for that very object, which is never asked."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is Same and cast(Same, other).value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class Notes(Generic[T]):
    """Notes on objects that go with them."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._held: dict[int, tuple[ref, T]] = {}

    def on(self, value: Any) -> T:
        """What is noted on an object; made when it is asked for first."""
        number = id(value)
        found = self._held.get(number)
        if found is None or found[0]() is not value:
            found = self._held[number] = ref(value, lambda gone: self._forget(number, gone)), self._make()
        return found[1]

    def _forget(self, number: int, gone: ref) -> None:
        if number in self._held and self._held[number][0] is gone:
            del self._held[number]


def cached(function: F) -> F:
    """Remembers results and arguments for good: for classes, names and sizes, never for what holds weights."""

    @functools.cache
    def known(*arguments: Any) -> Any:
        return function(*(one.value if type(one) is Same else one for one in arguments))

    @functools.wraps(function)
    def once(*arguments: Any) -> Any:
        return known(*(Same(one) if callable(one) else one for one in arguments))

    once.__dict__["cache_clear"] = known.cache_clear
    return cast(F, once)


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
