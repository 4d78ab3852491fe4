"""The backends that this pack knows."""

from __future__ import annotations

from .inductor.backend import InductorBackend
from .nexfort import NexfortBackend
from .oneflow.backend import OneFlowBackend
from .protocol import Backend

#: In the order in which ``auto`` tries them.
BACKENDS: dict[str, Backend] = {b.name: b for b in (InductorBackend(), OneFlowBackend(), NexfortBackend())}
