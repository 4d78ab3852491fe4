"""People's code that does not return: a call in a model, which is said, and what Python runs when it collects, a
``__del__`` or a weak reference's callback, which is ended."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .stacks import stack_of, threads
from .stopping import CALLERS, Stopped, raise_in, set_raised

log = logging.getLogger(__name__)

#: Seconds after which it is said that a call has not returned.
LONG = 15.0

#: Seconds that such a ``__del__`` has, and between two looks at them.
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
            at = self._line(ident)
            if at is not None:
                since = self._since[ident, calls] = before.get((ident, calls), now)
                held.append(Held(*at, now - since, cancelled))
        return next((one for one in held if cancelled or one.seconds > LONG), None)

    def _line(self, ident: int) -> tuple[str, int] | None:
        """The innermost line of theirs, else the one that this pack has called."""
        inner = None
        for code, line in stack_of(ident):
            if self._is_theirs(code.co_filename):
                return code.co_filename, line
            if code in CALLERS and inner is not None:
                return inner
            inner = code.co_filename, line
        return None


class Finalizers:
    """Ends a person's ``__del__`` that does not return, in whatever thread Python collects: what is raised in one goes
    no further. Two of them, in two threads, each see what holds the other.

    A weak reference's callback, and the rest of a generator, look like any other code. Cancel ends them but where it is
    answered: in the thread ``served``, the event loop's, nobody calls a person's code, so all of it is Python's doing.
    """

    def __init__(
        self,
        is_theirs: Callable[[str], bool],
        seconds: float = FINALIZING,
        served: Callable[[], int | None] = lambda: None,
    ):
        self._is_theirs, self._seconds, self._served = is_theirs, seconds, served
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
        for ident in threads():
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
                what = "what Python runs when it collects (a __del__, a weak reference's callback)"
                log.warning("OneDiff: %s did not return in %g s, at %s, and is ended.", what, self._seconds, where)

    def _finalizing(self, ident: int) -> str | None:
        """Where a thread runs a ``__del__`` of theirs, or what they have in the place of one."""
        anything = ident == self._served()
        for code, line in stack_of(ident):
            if (anything or code.co_name == "__del__") and self._is_theirs(code.co_filename):
                return f"{os.path.basename(code.co_filename)}:{line}"
        return None
