"""Compiling through OneDiff: backends and their proof, regions, what may enter a region, fallback."""

from .backends import BACKENDS, PROOFS_ON_DISK, backend_rows
from .exceptions import BackendUnavailable, ModelUnfit
from .session import Session
from .settings import Host, Settings

__all__ = [
    "BACKENDS",
    "PROOFS_ON_DISK",
    "BackendUnavailable",
    "Host",
    "ModelUnfit",
    "Session",
    "Settings",
    "backend_rows",
]
