"""The parameters that a call of a processor reaches, also where its own ``forward`` only hands them on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from .call_plan import Parameters

_VAR = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def entry_of(processor: nn.Module) -> Callable:
    """What runs when a processor is called: the ``forward`` set on the instance, or its class's, unbound."""
    return processor.__dict__.get("forward") or type(processor).forward


def own_parameters(processor: nn.Module) -> Parameters:
    """The parameters of what runs first, the processor itself not among them."""
    own = processor.__dict__.get("forward")
    if own is not None:
        return tuple(inspect.signature(own).parameters.values())
    return _member(type(processor), "forward")


def reached_parameters(processor: nn.Module) -> Parameters:
    """Those of what runs first; where that takes ``*args`` or ``**kwargs``, with those of the next ``forward`` or
    ``__call__`` along its bases that has names.

    ``def __call__(self, *args, **kwargs)`` over diffusers' AttnProcessor2_0 has that one's parameters.
    """
    own = own_parameters(processor)
    if not any(p.kind in _VAR for p in own):
        return own
    following = next((found for found in _along_bases(type(processor)) if any(_named(found)) and found != own), None)
    return own if following is None else _through(own, following)


def _member(cls: type, name: str) -> Parameters:
    """The parameters of a method of a class, ``self`` not among them. What is no function is not given it."""
    parameters = tuple(inspect.signature(getattr(cls, name)).parameters.values())
    kept = inspect.getattr_static(cls, name)
    alone = isinstance(kept, staticmethod | classmethod | functools.partial)
    return parameters if alone or not parameters or parameters[0].kind in _VAR else parameters[1:]


def _along_bases(cls: type) -> Iterator[Parameters]:
    for base in cls.__mro__:
        if base in (nn.Module, object):
            continue
        for name in ("forward", "__call__"):
            member: Any = base.__dict__.get(name)
            if member is not None and member not in (nn.Module.__call__, nn.Module.forward):
                yield _member(base, name)


def _named(parameters: Parameters) -> Iterator[inspect.Parameter]:
    return (p for p in parameters if p.kind not in _VAR)


def _through(own: Parameters, following: Parameters) -> Parameters:
    """What a function takes that hands the rest on to another one. By position alone where it has no ``**kwargs``, by
    name alone where it has no ``*args``."""
    kinds = {p.kind for p in own}
    by_name, by_place = inspect.Parameter.VAR_KEYWORD in kinds, inspect.Parameter.VAR_POSITIONAL in kinds
    mine = list(_named(own))
    first = sum(p.kind in _PLACED for p in mine)
    rest = [p for p in list(_named(following))[first:] if p.name not in {m.name for m in mine}]
    if not by_name:
        rest = [p.replace(kind=inspect.Parameter.POSITIONAL_ONLY) for p in rest if p.kind in _PLACED]
    elif not by_place or mine:
        rest = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in rest]
    variable = [p for p in following if p.kind is inspect.Parameter.VAR_KEYWORD and by_name]
    return (*mine, *rest, *variable)
