"""What a person's code is ended by, and what is said of it."""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType

from .stacks import stack_of, threads

log = logging.getLogger(__name__)

#: Seconds for which a person's code may go on after Cancel.
NOTICE = 0.5

#: Exceptions that are raised in it one at a time, and how many together after that.
FEW, MANY = 4, 200

#: Code of this pack that calls a person's, which may be inherited from a package, or come from no file at all.
CALLERS: set[CodeType] = set()

#: How the names of this pack's threads begin. They have ways of their own to be ended.
OWN = "OneDiff: "


class Stopped(BaseException):
    """Raised in a thread from another one, to end what it does."""


class Overdue(Exception):
    """A person's code took longer than ``seconds``. ``returned`` says that no single call took most of them, ``ended``
    that nothing goes on in the background."""

    def __init__(self, seconds: float):
        super().__init__(f"it took longer than {seconds:g} s")
        self.seconds = seconds
        self.returned = True
        self.ended = True


class Unanswered:
    """Cancel while a person's code computes in a model: the host asks for it between two steps only, which do not come
    where that code does not return. Then the host's own ``error`` is raised in it.

    Args:
        is_theirs: whether a file of Python code is a person's. What is called by one of ``CALLERS`` is, too.
    """

    def __init__(self, error: type[BaseException], is_theirs: Callable[[str], bool]):
        self._error = error
        self._is_theirs = is_theirs
        self._since: float | None = None
        self._raised = 0

    @property
    def in_vain(self) -> bool:
        """Whether what runs has met none of several exceptions: it waits in C code, or catches everything."""
        return self._raised >= FEW * 5

    def look(self, pressed: bool) -> None:
        """To be called now and then, with whether the user pressed Cancel and nobody has met it."""
        if not pressed:
            self._since, self._raised = None, 0
            return
        self._since = self._since or time.monotonic()
        if time.monotonic() < self._since + NOTICE:
            return
        ours = {thread.ident for thread in threading.enumerate() if thread.name.startswith(OWN)}
        for ident in [ident for ident in threads() if ident not in ours]:
            if self._runs_theirs(ident):
                self._raised += 1
                if self._raised == FEW * 5:
                    log.warning("OneDiff: Cancel waits for a processor: it waits in C code, or catches everything.")
                if self._raised <= FEW:
                    raise_in(ident, error=self._error)
                else:
                    self._raise_many(ident)

    def _raise_many(self, ident: int) -> None:
        """What is swallowed comes in quick succession, so that one meets the code where nothing catches it: at the end
        of what handles the one before. Threads take turns often meanwhile, or none would come there, nor be noticed
        soon when it has left that code."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(MANY):
                if not self._runs_theirs(ident):
                    break
                raise_in(ident, error=self._error)
                time.sleep(0)
        finally:
            sys.setswitchinterval(before)

    def _runs_theirs(self, ident: int) -> bool:
        return any(code in CALLERS or self._is_theirs(code.co_filename) for code, _ in stack_of(ident))


def raise_in(ident: int | None, base: FrameType | None = None, error: type[BaseException] = Stopped) -> None:
    """Raises an exception in a thread. Not while it imports a package: that would be left half made for everybody.
    Above a ``base`` also not while it sets something for a time or puts it back."""
    for code, _ in stack_of(ident or 0, base):
        if code.co_filename.startswith("<frozen importlib") or (base and code.co_name in ("__enter__", "__exit__")):
            return
    set_raised(ident or 0, error)


def set_raised(ident: int, error: type[BaseException] | None = Stopped) -> None:
    """Raises an exception in a thread; None takes back one that it did not meet yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), None if error is None else ctypes.py_object(error)
    )
