"""What a session is told: by the user, and by ComfyUI."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...patching.ending.stopping import Stopped
from ...patching.user_code import Cancel
from ..blocks.cast_weights import ResolveWeights

log = logging.getLogger(__name__)

#: Seconds of compiling in one sampling, by ``effort``; then the blocks that are left wait for the next one.
COMPILE_SECONDS = {"fast start": 300.0, "max speed": 1200.0}

#: The environment variable that takes their place. 0: nothing new is compiled; "inf": no limit.
COMPILE_SECONDS_VARIABLE = "ONEDIFF_COMPILE_SECONDS"


@dataclass(frozen=True)
class Settings:
    """The inputs of the node."""

    backend: str = "auto"
    scope: str = "blocks"
    effort: str = "fast start"
    stop_if_unfit: bool = False
    keep_faster: bool = True
    compile_seconds: float | None = None

    @property
    def budget(self) -> float:
        """Seconds of compiling in one sampling."""
        default = COMPILE_SECONDS.get(self.effort, COMPILE_SECONDS["fast start"])
        return default if self.compile_seconds is None else self.compile_seconds


def compile_seconds_asked() -> float | None:
    """What the environment variable says; None when it is not set, or says nothing sensible."""
    text = os.environ.get(COMPILE_SECONDS_VARIABLE)
    try:
        seconds = None if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if seconds is None or seconds >= 0:
        return seconds
    log.warning("OneDiff: %s=%r is no number of seconds; the default holds.", COMPILE_SECONDS_VARIABLE, text)
    return None


@dataclass(frozen=True)
class Host:
    """ComfyUI's part. ``check_interrupt`` raises ``interruption`` when the user pressed Cancel; without
    ``resolve_weights`` blocks of a partly loaded model run uncompiled. ``sampler`` gives the class of the node that
    samples now, ``prompt`` tells the prompts apart that it does so for; None where nobody knows.
    ``computes_with_sdpa`` says whether its attention function is PyTorch's, and ``opaque_attention`` gives the function
    where no graph can hold it."""

    check_interrupt: Callable[[], None]
    version: str | None = None
    resolve_weights: ResolveWeights | None = None
    sampler: Callable[[], str | None] = lambda: None
    prompt: Callable[[], Any] = lambda: None
    interruption: type[BaseException] = Stopped
    computes_with_sdpa: Callable[[], bool] = lambda: False
    opaque_attention: Callable[[], Callable | None] = lambda: None

    @property
    def cancel(self) -> Cancel:
        return Cancel(self.check_interrupt, self.interruption)
