"""Instance forwards, and other attributes, that are set on modules for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

#: What names of this pack's modules begin with.
_PACK = __name__.removesuffix("patching.forwards")


def swapped_forwards(forwards: Sequence[tuple[nn.Module, Callable]]) -> AbstractContextManager[None]:
    """Gives modules an instance ``forward`` for a while. What was there before comes back, also after an error; one
    that another node set meanwhile stays."""
    return swapped_attributes("forward", forwards)


@contextmanager
def swapped_attributes(name: str, values: Sequence[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Gives modules an attribute for a while, which is no child of theirs. What was there before comes back, also after
    an error, where nobody set another one meanwhile."""
    previous = []
    try:
        for module, value in values:
            previous.append((module, module.__dict__.get(name), value))
            module.__dict__[name] = value
        yield
    finally:
        for module, before, value in reversed(previous):
            if module.__dict__.get(name) is not value:
                continue
            if before is None:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = before


class Later:
    """Forwards that other nodes set on modules after this pack's own were there: those stay."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def without(self, forwards: Sequence[tuple[nn.Module, Callable]]) -> list[tuple[nn.Module, Callable]]:
        """Those of this pack's that are to be set for a model call. What a node put back, having found it in an earlier
        call, is taken off first."""
        found = []
        for module, forward in forwards:
            if module.__dict__.get("forward") is forward:
                del module.__dict__["forward"]
            present = module.__dict__.get("forward")
            if str(getattr(present, "__module__", "")).startswith(_PACK):
                present = None  # another patch's, around this one
            if present is self._before.setdefault(id(module), present):
                found.append((module, forward))
        return found
