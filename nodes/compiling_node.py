"""What the three nodes that compile have in common: inputs, and what begins when a prompt that holds one is queued."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..compilers import BACKENDS
from ..host.server import begin_start

RUN, STOP = "run uncompiled", "stop"


def backend_input() -> io.Input:
    return io.Combo.Input(
        "backend",
        options=["auto", *BACKENDS],
        default="auto",
        tooltip="auto: the first that works here and is not far slower than uncompiled.",
    )


def if_unfit_input() -> io.Input:
    return io.Combo.Input(
        "if_unfit",
        options=[RUN, STOP],
        default=RUN,
        tooltip="What to do when something cannot be compiled. Parts that can be are compiled anyway.",
    )


class CompilingNode(io.ComfyNode):
    """A node that compiles what it is given."""

    @classmethod
    def validate_inputs(cls, backend: Any = None, **kwargs: Any) -> bool:
        """A backend or setting that this machine lacks gives way to one that it has; the record says so."""
        begin_start(backend if isinstance(backend, str) else "auto")
        return True
