"""Errors of this package. People read ``str(error)``; programs read the attributes."""

from __future__ import annotations


class BackendUnavailable(RuntimeError):
    """A backend that cannot compile on this machine. ``backend`` names it, ``reason`` says what is missing and what to
    do."""

    def __init__(self, backend: str, reason: str):
        super().__init__(f"backend {backend} is not available: {reason}")
        self.backend = backend
        self.reason = reason


class ModelUnfit(RuntimeError):
    """Raised where the user asked to stop rather than run uncompiled. ``node`` is its id, ``reason`` says why."""

    def __init__(self, node: str, reason: str):
        super().__init__(
            f"OneDiff Compile (node {node}): {reason} Set unfit (if_unfit) to “run uncompiled” to go on without."
        )
        self.node = node
        self.reason = reason


class MissingOperator(RuntimeError):
    """A backend cannot do an operator of a region. ``operator`` is ATen's name of it, ``where`` the model's line."""

    def __init__(self, operator: str, where: str, why: str):
        super().__init__(f"it uses {operator} ({where}), which OneFlow cannot do here: {why}.")
        self.operator = operator
        self.where = where
