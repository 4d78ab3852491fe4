"""At which sites what a patch put there computes, noted while a model call runs.

A compiled block does not tell: for it is noted what its uncompiled run noted, with which it was compared. Another node
may call the model, or its blocks, in a thread of its own: what is met there is noted by all who note.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..patching.ending.stopping import OWN
from .sites.find import Site

#: A site's module by its id, and the number of what adds to its attention; None is what takes its place.
Place = tuple[int, int | None]

#: Places that were met, each with whether the processor was called there, or PyTorch's attention in its place.
Noted = dict[Place, bool]


def places_of(sites: Iterable[Site]) -> dict[Place, str]:
    """The paths of sites, each by what is noted when a processor takes its place."""
    return {(id(site.module), None): site.path for site in sites}


_NUMBERS = itertools.count()


class _Running:
    """Of one thread: who notes, the outermost first, and the number of what was noted last; no two have the same."""

    def __init__(self) -> None:
        self.noted: list[Noted] = []
        self.last = next(_NUMBERS)


_RUNNING: dict[int, _Running] = {}


def running() -> dict[int, int]:
    """The threads in which a model computes, each with a number that is another one after each call of a processor."""
    return {ident: one.last for ident, one in _RUNNING.copy().items()}


@contextmanager
def noting() -> Iterator[Noted]:
    """Notes what is met meanwhile; who notes around it is told, too."""
    noted: Noted = {}
    ident = threading.get_ident()
    of_thread = _RUNNING.setdefault(ident, _Running())
    of_thread.noted.append(noted)
    try:
        yield noted
    finally:
        of_thread.noted.pop()
        if not of_thread.noted:
            _RUNNING.pop(ident, None)
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
    of_thread = _RUNNING.get(threading.get_ident())
    for one in _others() if of_thread is None else (of_thread,):
        one.last = next(_NUMBERS)
        for noted in one.noted[-1:]:  # none where it ends just now
            noted[place] = called or noted.get(place, False)


def _others() -> Iterable[_Running]:
    """Those of other threads, for one in which nobody notes; none for a check's, which calls processors to try them."""
    return () if threading.current_thread().name.startswith(OWN) else _RUNNING.copy().values()
