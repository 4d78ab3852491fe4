"""The trials that go on in this thread, found by the attention of a patched site."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from .trial import Trial

_running = threading.local()


def trials() -> tuple[Trial, ...]:
    """Those of the model call that runs, one a patch that still has something to learn."""
    return getattr(_running, "trials", ())


def trial_at(site: nn.Module | None) -> Trial | None:
    """The trial that looks at a site. Not asked in graphs."""
    return next((trial for trial in trials() if site in trial.sites), None)


@contextmanager
def running(trial: Trial) -> Iterator[None]:
    before = trials()
    _running.trials = (*before, trial)
    try:
        yield
    finally:
        _running.trials = before
