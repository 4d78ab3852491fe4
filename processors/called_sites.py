"""At which sites what a patch put there computes, noted while a model call runs. A compiled block does not tell: it notes
what its uncompiled run noted, with which it was compared."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

#: A site's module by its id, and the number of what adds to its attention; None is what takes its place.
Place = tuple[int, int | None]

#: Places that were met, each with whether the processor was called there, or PyTorch's attention in its place.
Noted = dict[Place, bool]


class _Open(threading.local):
    def __init__(self) -> None:
        self.noted: list[Noted] = []


_OPEN = _Open()


@contextmanager
def noting() -> Iterator[Noted]:
    """Notes what is met meanwhile; who notes around it is told, too."""
    noted: Noted = {}
    _OPEN.noted.append(noted)
    try:
        yield noted
    finally:
        _OPEN.noted.pop()
        note_again(noted)


def note_again(noted: Noted) -> None:
    """Notes what another run noted."""
    for place, called in noted.items():
        _note(place, called)


def note_met(site: nn.Module | None, called: bool, number: int | None = None) -> None:
    """Notes that no other node has taken a site. Not in graphs."""
    if site is not None and not torch.compiler.is_compiling():
        _note((id(site), number), called)


def _note(place: Place, called: bool) -> None:
    if _OPEN.noted:
        _OPEN.noted[-1][place] = called or _OPEN.noted[-1].get(place, False)
