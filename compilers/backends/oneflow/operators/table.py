"""The table of operators, and the decorator that fills it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Of OneFlow; its classes have no types.
Tensor = Any

OPERATORS: dict[str, Callable[..., Any]] = {}


def lowers(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function for ATen operators."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        OPERATORS.update({f"aten.{name}": function for name in names})
        return function

    return register
