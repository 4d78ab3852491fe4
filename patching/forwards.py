"""Instance forwards, and other attributes, that are set on modules for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn


def swapped_forwards(forwards: Sequence[tuple[nn.Module, Callable]]) -> AbstractContextManager[None]:
    """Gives modules an instance ``forward`` for a while. What was there before comes back, also after an error."""
    return swapped_attributes("forward", forwards)


@contextmanager
def swapped_attributes(name: str, values: Sequence[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Gives modules an attribute for a while, which is no child of theirs. What was there before comes back, also after
    an error."""
    previous = []
    try:
        for module, value in values:
            previous.append((module, module.__dict__.get(name)))
            module.__dict__[name] = value
        yield
    finally:
        for module, value in reversed(previous):
            if value is None:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = value
