"""What a session is told: by the user, and by ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .cast_weights import ResolveWeights


@dataclass(frozen=True)
class Settings:
    """The inputs of the node."""

    backend: str = "auto"
    scope: str = "blocks"
    effort: str = "fast start"
    stop_if_unfit: bool = False
    keep_faster: bool = True


@dataclass(frozen=True)
class Host:
    """ComfyUI's part. ``check_interrupt`` raises ``interrupt_error`` when the user pressed Cancel; without
    ``resolve_weights`` blocks of a partly loaded model run uncompiled."""

    check_interrupt: Callable[[], None]
    interrupt_error: type[BaseException]
    version: str | None = None
    resolve_weights: ResolveWeights | None = None
