"""Instance forwards that are set for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def swapped_forwards(forwards: list[tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Gives modules an instance ``forward`` for a while. What was there before comes back, also after an error."""
    previous = []
    try:
        for module, forward in forwards:
            previous.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, forward in reversed(previous):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
