"""One sampling of a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...patching.instead import called_instead
from ...patching.wrappers import KEY
from ..measuring.block import Block


@dataclass
class Sampling:
    """What concerns one sampling, made anew for each; the last one's stays until the next.

    ``now``: it goes on. ``broke_off``: it has not come to its end, or never will. ``tried``: a step ran in which blocks
    could have been called. ``unused`` says why compiling took no part in it, as the record has it.
    """

    now: bool = False
    broke_off: bool = False
    tried: bool = False
    unused: dict[str, Any] | None = None

    def note_use(self, executor: Any, steps: int, blocks: Sequence[Block]) -> None:
        """Notes at its end whether compiling took part in it, and who computed the model instead.

        Args:
            executor: the host's, of ``outer_sample``.
            steps: how often the model was called as the host calls it.
        """
        guider = getattr(executor, "class_obj", None)
        if not steps:
            self.unused = {"why": "not called", **called_instead(guider, KEY)}
        elif self.tried and not any(block.ran for block in blocks):
            self.unused = {"why": "not reached", **called_instead(guider, KEY, inside=True)}
