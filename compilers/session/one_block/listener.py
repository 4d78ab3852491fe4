"""Who is told what becomes of a block while it runs."""

from __future__ import annotations

from typing import Protocol

from ...blocks.shared_graph import SharedGraph
from ...measuring.block import Block


class Listener(Protocol):
    """The session, as a block's runner knows it."""

    def compiling(self, block: Block) -> None:
        """A block is about to be compiled. Raises what the host raises when the user pressed Cancel."""

    def comparing(self, block: Block) -> None:
        """A compiled block is about to be compared again. Raises the same."""

    def failed(self, block: Block, graph: SharedGraph, error: Exception) -> None:
        """A compiled block raised. It runs uncompiled from now on, and so does every block of its graph; after running
        out of memory, only steps of this shape do."""

    def gave_up(self, block: Block, reason: str) -> None:
        """A block runs uncompiled from now on."""
