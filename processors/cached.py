"""functools.cache with the function's own type: in torch's stubs a module class is not Hashable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar, cast

F = TypeVar("F", bound=Callable)


def cached(function: F) -> F:
    """Remembers every result for good. Arguments must be hashable."""
    return cast(F, functools.cache(function))
