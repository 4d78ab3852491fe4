"""Compiling through OneDiff: backends and their proof, regions, what may enter a region, fallback."""

from .backends import BACKENDS, PROOFS_ON_DISK, backend_rows, forget_failures, start_ahead, wait_for_imports
from .cache import WARM, Place
from .clearing import CLEARED
from .exceptions import BackendUnavailable, ModelUnfit
from .session import Session
from .settings import Host, Settings, compile_seconds_asked
from .step_clock import BlockCounter, StepClock

__all__ = [
    "BACKENDS",
    "CLEARED",
    "PROOFS_ON_DISK",
    "WARM",
    "BackendUnavailable",
    "BlockCounter",
    "Host",
    "ModelUnfit",
    "Place",
    "Session",
    "Settings",
    "StepClock",
    "backend_rows",
    "compile_seconds_asked",
    "forget_failures",
    "start_ahead",
    "wait_for_imports",
]
