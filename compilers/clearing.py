"""What the user wants forgotten. Nothing is dropped from memory at once: each session looks here when its next sampling
begins, so that a sampling that is running ends as it began."""

from __future__ import annotations

from dataclasses import dataclass

from .cache import WARM, Deleted


@dataclass
class Cleared:
    """How often measurements and graphs were cleared, and failures of backends forgotten, since the start."""

    measurements: int = 0
    graphs: int = 0
    backends: int = 0

    @property
    def marks(self) -> tuple[int, int, int]:
        """What a session compares with what it saw last."""
        return self.measurements, self.graphs, self.backends

    def clear_measurements(self) -> None:
        self.measurements += 1

    def clear_graphs(self) -> Deleted:
        """What was deleted on disk."""
        self.graphs += 1
        return WARM.clear()

    def forget_failed_backends(self) -> None:
        self.backends += 1


CLEARED = Cleared()
