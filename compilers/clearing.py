"""What the user wants forgotten. Nothing is dropped at once: each session looks here when its next sampling begins, so
that a sampling that is running ends as it began."""

from __future__ import annotations

import uuid
from dataclasses import dataclass


@dataclass
class Cleared:
    """How often measurements and graphs were cleared since the start. ``tag`` becomes part of the key under which
    Inductor keeps what it compiles on disk, so that nothing from before is found there; other programs share that
    folder, and theirs stays."""

    measurements: int = 0
    graphs: int = 0
    tag: str = ""

    @property
    def marks(self) -> tuple[int, int]:
        """What a session compares with what it saw last."""
        return self.measurements, self.graphs

    def clear_measurements(self) -> None:
        self.measurements += 1

    def clear_graphs(self) -> None:
        self.tag = f"onediff-{uuid.uuid4().hex[:12]}"
        self.graphs += 1


CLEARED = Cleared()
