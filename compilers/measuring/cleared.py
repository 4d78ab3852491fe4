"""What the user wants forgotten. Nothing is dropped from memory at once: each session looks here when its next sampling
begins, so that a sampling that is running ends as it began."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..compile_cache import WARM, Deleted


@dataclass(frozen=True)
class Marks:
    """How often measurements and graphs were cleared, and failures of backends forgotten, since the start. A session
    compares them with those that it saw last."""

    measurements: int = 0
    graphs: int = 0
    backends: int = 0


class Cleared:
    """The one of this process, with the ``marks`` as they are now."""

    def __init__(self) -> None:
        self.marks = Marks()

    def clear_measurements(self) -> None:
        self.marks = replace(self.marks, measurements=self.marks.measurements + 1)

    def clear_graphs(self) -> Deleted:
        """What was deleted on disk."""
        self.marks = replace(self.marks, graphs=self.marks.graphs + 1)
        return WARM.clear()

    def forget_failed_backends(self) -> None:
        self.marks = replace(self.marks, backends=self.marks.backends + 1)


CLEARED = Cleared()
