"""Compiling through OneDiff: backends and their proof, regions, what may enter a region, fallback."""

from .backends.protocol import BackendUnavailable
from .backends.registry import BACKENDS
from .choice.choose import backend_rows
from .choice.prove import PROOFS
from .compile_cache import WARM, Place
from .measuring.cleared import CLEARED
from .measuring.step_clock import BlockCounter, StepClock
from .session.calls.call_session import CallSession
from .session.failures import ModelUnfit
from .session.session import Session
from .session.settings import Host, Settings, compile_seconds_asked

__all__ = [
    "BACKENDS",
    "CLEARED",
    "PROOFS",
    "WARM",
    "BackendUnavailable",
    "BlockCounter",
    "CallSession",
    "Host",
    "ModelUnfit",
    "Place",
    "Session",
    "Settings",
    "StepClock",
    "backend_rows",
    "compile_seconds_asked",
]
