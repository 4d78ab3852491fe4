"""People's code that does not return: a call in a model, which is said, and a ``__del__``, which is ended."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import NamedTuple

from .stopping import CALLERS, Stopped, raise_in, set_raised

log = logging.getLogger(__name__)

#: Seconds after which it is said that a call has not returned.
LONG = 15.0

#: Seconds that a ``__del__`` has, and between two looks at them.
FINALIZING, PAUSE = 10.0, 0.5

#: Seconds in which an exception is met by Python code. It is taken back from what waits in C code.
MET = 0.02


class Held(NamedTuple):
    """A call that has not returned: the ``file`` and line that it is at, for how many ``seconds``, and whether Cancel
    was tried on it in vain."""

    file: str
    line: int
    seconds: float
    cancelled: bool

    @property
    def where(self) -> str:
        """ "slow.py:12"."""
        return f"{os.path.basename(self.file)}:{self.line}"


class Calls:
    """Notices a call that does not return.

    Args:
        is_theirs: whether a file of Python code is a person's.
        running: the threads in which a model computes, each with a number that changes with each call of a processor.
    """

    def __init__(self, is_theirs: Callable[[str], bool], running: Callable[[], Mapping[int, int]]):
        self._is_theirs, self._running = is_theirs, running
        self._since: dict[tuple[int, int], float] = {}

    def look(self, cancelled: bool) -> Held | None:
        """To be called now and then; ``cancelled`` says that Cancel was tried in vain on what runs now."""
        now, before, self._since = time.monotonic(), self._since, {}
        held = []
        for ident, calls in self._running().items():
            # Not kept in a variable: this frame is among them, and would hold all of theirs, with their tensors.
            at = self._line(sys._current_frames().get(ident))
            if at is not None:
                since = self._since[ident, calls] = before.get((ident, calls), now)
                held.append(Held(*at, now - since, cancelled))
        return next((one for one in held if cancelled or one.seconds > LONG), None)

    def _line(self, frame: FrameType | None) -> tuple[str, int] | None:
        """The innermost line of theirs, else the one that this pack has called."""
        inner = None
        for one in _frames(frame):
            if self._is_theirs(one.f_code.co_filename):
                return one.f_code.co_filename, one.f_lineno
            if one.f_code in CALLERS and inner is not None:
                return inner.f_code.co_filename, inner.f_lineno
            inner = one
        return None


class Finalizers:
    """Ends a person's ``__del__`` that does not return, in whatever thread Python collects: what is raised in one goes
    no further. Two of them, in two threads, each see what holds the other."""

    def __init__(self, is_theirs: Callable[[str], bool], seconds: float = FINALIZING):
        self._is_theirs, self._seconds = is_theirs, seconds
        self._since: dict[int, float] = {}
        self._said: set[int] = set()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Looks from now on, in a thread of its own."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._go_on, name="OneDiff finalizers", daemon=True)
            self._thread.start()

    def _go_on(self) -> None:
        while True:
            time.sleep(PAUSE)
            self.look()

    def look(self) -> None:
        """To be called now and then."""
        now, before, self._since = time.monotonic(), self._since, {}
        for ident in list(sys._current_frames()):
            if ident == threading.get_ident() or self._finalizing(ident) is None:
                continue
            since = self._since[ident] = before.get(ident, now)
            if now - since > self._seconds:
                self._end(ident)
        self._said &= self._since.keys()

    def _end(self, ident: int) -> None:
        time.sleep(0)  # this thread is not interrupted between the next two lines
        where = self._finalizing(ident)
        if where is not None:
            raise_in(ident, error=Stopped)
            time.sleep(MET)
            set_raised(ident, None)
            if ident not in self._said:
                self._said.add(ident)
                log.warning("OneDiff: a __del__ did not return in %g s, at %s, and is ended.", self._seconds, where)

    def _finalizing(self, ident: int) -> str | None:
        """Where a thread runs a ``__del__`` of theirs."""
        for frame in _frames(sys._current_frames().get(ident)):
            if frame.f_code.co_name == "__del__" and self._is_theirs(frame.f_code.co_filename):
                return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        return None


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that it was called from."""
    while frame is not None:
        yield frame
        frame = frame.f_back
