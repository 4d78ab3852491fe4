"""The built-in processors by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from .contract import Processor

DEFAULT_PROCESSOR = "sdpa"

_CLASSES: dict[str, type[Processor]] = {}
_INSTANCES: dict[str, Processor] = {}


class UnknownProcessor(ValueError):
    """A processor name that is not registered. ``name`` and ``known`` say which, and what there is."""

    def __init__(self, name: str, known: list[str]):
        near = get_close_matches(name, known, n=2)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There is {', '.join(known)}."
        super().__init__(f"there is no attention processor {name!r} here. {hint}")
        self.name = name
        self.known = known


def register_processor(name: str) -> Callable[[type[Processor]], type[Processor]]:
    """Class decorator: makes a processor available under ``name``. A name that is taken raises ValueError."""

    def register(cls: type[Processor]) -> type[Processor]:
        if name in _CLASSES:
            raise ValueError(f"a processor named {name!r} is registered already")
        _CLASSES[name] = cls
        return cls

    return register


def processor_names() -> list[str]:
    """All names, the default first."""
    return sorted(_CLASSES, key=lambda name: (name != DEFAULT_PROCESSOR, name))


def get_processor(name: str) -> Processor:
    """The one instance of a built-in processor. One is enough, and lets equal blocks share a compiled graph.

    Raises:
        UnknownProcessor: for a name that is not registered.
    """
    if name not in _CLASSES:
        raise UnknownProcessor(name, processor_names())
    if name not in _INSTANCES:
        _INSTANCES[name] = _CLASSES[name]().eval()
    return _INSTANCES[name]
