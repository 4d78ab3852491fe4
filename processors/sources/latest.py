"""What a function gave last, for callers that cannot wait until it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that a caller waits, counted from its question, or from when the run began where that was earlier: a run that
#: hangs holds up only those who come then.
PATIENCE = 0.5

#: Seconds that a run waits for a list of files, which it needs to find its own.
FINDING_PATIENCE = 20.0


@dataclass
class _Run:
    began: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)


class Latest(Generic[T]):
    """Runs ``make`` in a thread whenever it is asked, never twice at once. ``first`` is what there is before that.

    A disk that does not answer holds up that thread, never ComfyUI's event loop or its queue.
    """

    def __init__(self, make: Callable[[], T], first: T):
        self._make = make
        self._value = first
        self._has_any = False
        self._run: _Run | None = None
        self._lock = threading.Lock()

    @property
    def last(self) -> T:
        """What the last run gave; nothing is run."""
        return self._value

    @property
    def late(self) -> bool:
        """Whether a run has been going on for longer than anybody waits."""
        run = self._run
        return run is not None and not run.done.is_set() and time.monotonic() > run.began + PATIENCE

    def offer(self, part: T) -> None:
        """What ``make`` has so far: before it gave anything, a part is better than nothing."""
        if not self._has_any:
            self._value = part

    def start(self) -> float:
        """Begins a run where none is going on, for a caller that waits in a moment. Returns when it was ``asked``."""
        asked = time.monotonic()
        self._going()
        return asked

    def get(
        self,
        patience: float = PATIENCE,
        check_interrupt: Callable[[], None] = lambda: None,
        asked: float | None = None,
    ) -> T:
        """The result of a run that began when it was ``asked`` (now) or later, or the last one where that takes longer
        than ``patience`` seconds. ``check_interrupt`` is called while it waits, and may raise."""
        asked = time.monotonic() if asked is None else asked
        while True:
            run = self._going()
            until = min(run.began, asked) + patience
            while not run.done.wait(min(0.05, max(0.0, until - time.monotonic()))):
                check_interrupt()
                if time.monotonic() >= until:
                    return self._value
            if run.began >= asked or time.monotonic() >= asked + patience:
                return self._value

    def _going(self) -> _Run:
        with self._lock:
            if self._run is None or self._run.done.is_set():
                run = self._run = _Run()
                thread = threading.Thread(target=self._work, args=(run,), name="OneDiff list", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the system has no thread left
                    log.warning("OneDiff: %s", error)
                    run.done.set()
            return self._run

    def _work(self, run: _Run) -> None:
        try:
            self._value = self._make()
            self._has_any = True
        except Exception:
            log.exception("OneDiff: listing failed; what was listed before stays.")
        finally:
            run.done.set()
