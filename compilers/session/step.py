"""One model call of a session."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from ..blocks.shared_graph import SharedGraph
from ..measuring.block import Block
from ..measuring.model_memory import Variant


@dataclass
class Step:
    """What concerns one model call, made anew for each.

    ``shape`` is what two steps must share to be compared, ``variant`` what is known with the patches and settings of
    this one. ``watching``: it runs uncompiled, to learn what the blocks read. ``compared``: it runs uncompiled, to be
    compared with a compiled one. ``bypassing``: the rest of it runs uncompiled. ``dirty``: it compiled or compared
    something, so its time means nothing. ``running`` is the compiled block that runs, with its graph. ``again`` is a
    block that is compared once more in it, ``number`` counts the session's steps, ``size`` says what it is compared
    for. ``goes_on``: it runs uncompiled what a compiler beside is not done with. ``ran_foreign``: code of other nodes
    ran in it, so it cannot be run again as a whole.
    """

    shape: Hashable
    variant: Variant
    watching: bool = False
    compared: bool = False
    bypassing: bool = False
    dirty: bool = False
    ran_block: bool = False
    ran_compiled: bool = False
    ran_foreign: bool = False
    again: Block | None = None
    number: int = 0
    goes_on: bool = False
    size: tuple[str, int] = ("", 0)
    running: tuple[Block, SharedGraph] | None = None

    @property
    def kind(self) -> str:
        """How it was run, for people: "uncompiled", "compiled" or "compiling"."""
        if self.dirty and not self.watching:
            return "compiling"
        return "compiled" if self.ran_compiled else "uncompiled"

    @property
    def was_compiled(self) -> bool:
        """Whether it ran compiled, and neither compiled nor compared anything."""
        return self.ran_compiled and not (self.watching or self.dirty or self.bypassing)
