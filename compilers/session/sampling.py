"""One sampling of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
