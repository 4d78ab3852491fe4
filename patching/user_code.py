"""Code that people wrote, run so that it ends in time, can be cancelled, and ends nothing but itself.

Such code may sleep, loop for ever, or raise what ends a thread, as argparse does in an ``__init__``. It runs in one of
two ways:

- ``Attendance.apart`` runs a call in a thread of its own and waits for it. Cancel and the end of the time reach the one
  who waits within a moment, also while the call sleeps in C code. So files are loaded, processors made, and calls on
  real tensors tried.
- ``Attendance.watched`` stays in the thread that samples, and an exception is raised there from another one. Dynamo and
  fake tensors are used in this way only: left behind in a thread of their own they would set the random numbers of the
  whole process back in the middle of a later picture. The exception reaches Python code only, so what was seen to be
  slow in a thread of its own is not traced at all (checks/probing/pace.py).
"""

from __future__ import annotations

import _thread
import contextvars
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TypeVar

import torch

from .ending.stopping import OWN, Overdue, Stopped, raise_in, set_raised

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that a person's code has by default: to be loaded, to be made, to be checked at one place.
PATIENCE = 60.0

#: Seconds between two looks at Cancel, and after which the console says what a run waits for.
PAUSE, QUICK = 0.05, 1.0

#: Seconds that are waited for a thread to end, and after which the console says that one cannot be ended.
GRACE, STUBBORN = 0.5, 5.0


@dataclass(frozen=True)
class Cancel:
    """How a run is cancelled: ``check`` raises ``error`` after the user pressed Cancel. It is an Exception in some
    versions of the host, and whoever catches a person's exceptions lets ``stops`` through."""

    check: Callable[[], None] = lambda: None
    error: type[BaseException] = Stopped

    @property
    def stops(self) -> tuple[type[BaseException], ...]:
        return (Stopped, Overdue, self.error)


class Attendance:
    """Looks after a person's code for ``seconds`` from now on."""

    def __init__(self, cancel: Cancel | None = None, seconds: float = PATIENCE):
        self.cancel = cancel or Cancel()
        self.seconds = seconds
        self.stops = self.cancel.stops
        self.waits = False
        self._end = time.monotonic() + seconds
        self._reason: BaseException | None = None

    def apart(self, work: Callable[[], T], label: str) -> T:
        """What ``work`` returns or raises, run in a thread of its own; ``label`` names it for people.

        Raises:
            Overdue: when the time is over.
        """
        if hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
            # Torch 2.11 built for CUDA keeps this with the thread that first entered fake tensors, and crashes on a
            # machine without a GPU once that has ended. The thread that waits here does not end.
            torch._C._ensureCUDADeviceGuardSet()
        outcome: list[tuple[T | None, BaseException | None]] = []
        thread = _OwnThread(partial(contextvars.copy_context().run, _into(outcome, work)), f"{OWN}{label}")
        start, self.waits = time.monotonic(), True
        try:
            thread.start()
            self._wait(thread, label)
        except BaseException as error:
            ended = end(thread, label)
            if isinstance(error, Overdue):
                error.returned, error.ended = time.monotonic() - start < self.seconds / 2, ended
            raise
        finally:
            self.waits = False
        result, raised = outcome.pop() if outcome else (None, Stopped())
        if raised is not None:
            try:
                raise not_ours(raised)
            finally:
                del raised  # its traceback holds this frame
        return result  # type: ignore[return-value]

    def _wait(self, thread: threading.Thread, label: str) -> None:
        start, quiet = time.monotonic(), True
        while thread.is_alive():
            thread.join(PAUSE)
            reason = self.due() if thread.is_alive() else None
            if reason is not None:
                raise reason
            if quiet and time.monotonic() > start + QUICK:
                quiet = False
                log.info("OneDiff: waiting for %s, up to %g s.", label, self.seconds)

    def watched(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises, run in this thread.

        Raises:
            Overdue: when the time is over; ``cancel.error`` when the user pressed Cancel.
        """
        watch = _Watch(self, sys._getframe())
        try:
            try:
                return work()
            finally:
                watch.stop()
        except Stopped as error:
            watch.stop()  # raises what it was for, where it came between the two lines above
            raise not_ours(error) from None

    def inside(self) -> Cancel:
        """For what looks at Cancel itself while this does: it is told to one only."""

        def check() -> None:
            reason = self.due()
            if reason is not None:
                raise reason

        return Cancel(check, self.cancel.error)

    def due(self) -> BaseException | None:
        """Why what runs has to end now, None when it may go on. Cancel is told once, so it is remembered."""
        if self._reason is None:
            try:
                self.cancel.check()
            except BaseException as error:
                self._reason = error
        if self._reason is None and time.monotonic() > self._end:
            self._reason = Overdue(self.seconds)
        return self._reason


def not_ours(error: BaseException) -> BaseException:
    """An error that a person's code raised. Stopped would pass everybody who lets ours through, and end the thread."""
    if not issubclass(type(error), Stopped):
        return error
    instead = RuntimeError("its code raises Stopped, which is OneDiff's own")
    return instead.with_traceback(vars(BaseException)["__traceback__"].__get__(error))


def _into(outcome: list, work: Callable[[], T]) -> Callable[[], None]:
    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # is raised again where it is waited for
            outcome.append((None, error))

    return run


class _OwnThread(threading.Thread):
    """A thread that Stopped may be raised in until it is ``through``. None may come later: nobody would catch it, and
    Python would print it."""

    def __init__(self, work: Callable[[], None], name: str):
        super().__init__(name=name, daemon=True)
        self.through = False
        self._work: Callable[[], None] | None = work

    def run(self) -> None:
        try:
            while not self.through:
                try:
                    work, self._work = self._work, None
                    if work is not None:
                        work()
                    self.through = True
                    time.sleep(0)  # meets one that waits
                except Stopped:
                    continue
        except Stopped:  # where the loop turns
            self.through = True


class _Watch:
    """Ends what a thread does by an exception when it is due, again and again, since its code may swallow one."""

    def __init__(self, attendance: Attendance, base: FrameType):
        self._attendance = attendance
        self._ident = threading.get_ident()
        self._base: FrameType | None = base
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        self._raised = False
        self._thread = threading.Thread(target=self._run, name=f"{OWN}watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.acquire(timeout=PAUSE):
            if not self._attendance.waits and self._attendance.due() is not None:
                self._raised = True
                raise_in(self._ident, self._base)

    def stop(self) -> None:
        """After this nothing is raised in the thread any more but what it was ended for."""
        while True:
            try:
                if self._ended.locked():
                    self._ended.release()
                self._thread.join()
                break
            except Stopped:
                continue
        self._base = None  # it holds this
        if self._raised:
            _settle()
            raise self._attendance.due() or Stopped()


def end(thread: _OwnThread, label: str) -> bool:
    """Ends what runs in a thread; whether it did within a moment. Else it is tried on until it ends, so that it slows
    no later picture."""
    start = time.monotonic()
    while thread.is_alive() and time.monotonic() < start + GRACE:
        _raise_in_thread(thread)
        thread.join(0.02)
    _take_back(thread)
    if thread.is_alive():
        threading.Thread(target=_end_later, args=(thread, label), name=f"{OWN}end", daemon=True).start()
        return False
    return True


def _end_later(thread: _OwnThread, label: str) -> None:
    start, quiet = time.monotonic(), True
    while thread.is_alive():
        for _ in range(20):  # in quick succession, so that one comes where nothing catches it
            _raise_in_thread(thread)
            time.sleep(0)
        thread.join(0.02)
        _take_back(thread)
        thread.join(0 if quiet else 0.5)
        if quiet and time.monotonic() > start + STUBBORN:
            quiet = False
            log.warning(
                "OneDiff: %s cannot be ended: it waits in C code or imports a package. Restart ComfyUI if it slows it.",
                label,
            )


def _raise_in_thread(thread: _OwnThread) -> None:
    if not thread.through:
        raise_in(thread.ident)
        if thread.through:  # since it was asked
            set_raised(thread.ident or 0, None)


def _take_back(thread: threading.Thread) -> None:
    """Takes back an exception that a thread did not meet, because it has ended or waits in C code."""
    if thread.is_alive():
        set_raised(thread.ident or 0, None)
    _settle()


def _settle() -> None:
    """Meets an exception that waits in this thread, or one of its own. As long as one waits in any thread, and after it
    was taken back, Python 3.11 goes on looking for it in all, which slows their code; in those that ``sys.settrace``
    follows, as the check does, it never gets further."""
    try:
        set_raised(threading.get_ident())
        while True:
            time.sleep(0)
    except Stopped:
        pass
