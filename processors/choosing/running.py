"""The trial that goes on in this thread, found by the attention of a patched site."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .trial import Trial

_running = threading.local()


def running_trial() -> Trial | None:
    """The trial of the model call that runs. Not asked in graphs."""
    return getattr(_running, "trial", None)


@contextmanager
def running(trial: Trial | None) -> Iterator[None]:
    before, _running.trial = running_trial(), trial
    try:
        yield
    finally:
        _running.trial = before
