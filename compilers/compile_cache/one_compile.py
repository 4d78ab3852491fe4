"""One compile of a graph, from what the store had to what it left."""

from __future__ import annotations

from dataclasses import dataclass, field

from .store import Entry, Store
from .workspace import Workspace, source_of


@dataclass
class Compile:
    """One compile of a graph. ``found`` is what the store had; ``hit`` whether Inductor took it. ``seconds`` are those
    of capturing, compiling and the first run, as far as they were waited for. ``beside``: its library was built while
    others compiled."""

    key: str
    generation: int
    found: Entry | None = None
    hit: bool = False
    seconds: float = 0.0
    beside: bool = False
    files: list[str] = field(default_factory=list)
    before: dict[str, tuple[int, int]] = field(default_factory=dict)
    workspace: Workspace | None = None
    store: Store | None = None

    def late(self, workspace: Workspace) -> list[str]:
        """What it left since it ended: its library alone, where others compiled meanwhile."""
        added = workspace.added(self.before)
        return [name for name in added if source_of(name) in self.files] if self.beside else added

    @property
    def saved_from(self) -> float | None:
        """Seconds that the graph took when it was compiled first, None when it is compiled now."""
        return self.found.seconds if self.hit and self.found is not None else None
