"""A call of a module as a value, and the ``transformer_options`` in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

#: Positional and keyword arguments of a call.
Inputs = tuple[tuple, dict[str, Any]]


def options_position(forward: Callable) -> int | None:
    """Index of ``transformer_options`` among the positional arguments of an unbound ``forward``, self not counted."""
    code = forward.__code__
    names = code.co_varnames[: code.co_argcount]
    return names.index("transformer_options") - 1 if "transformer_options" in names else None


def accepts_options(forward: Callable) -> bool:
    """Whether an unbound ``forward`` can be given ``transformer_options``."""
    code = forward.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return "transformer_options" in names or bool(code.co_flags & inspect.CO_VARKEYWORDS)


def options_of(inputs: Inputs, position: int | None) -> dict[str, Any] | None:
    """The ``transformer_options`` of a call."""
    args, kwargs = inputs
    if position is not None and len(args) > position:
        return args[position]
    return kwargs.get("transformer_options")


def with_options(inputs: Inputs, position: int | None, options: dict[str, Any]) -> Inputs:
    """The same call with other ``transformer_options``."""
    args, kwargs = inputs
    if position is not None and len(args) > position:
        return (*args[:position], options, *args[position + 1 :]), kwargs
    return args, {**kwargs, "transformer_options": options}
