"""One call of a block that is to run compiled."""

from __future__ import annotations

from dataclasses import dataclass

from ....patching.calls import Inputs
from ...blocks.operators.acting import Acting
from ...blocks.operators.block_call import BlockCall


@dataclass(frozen=True)
class Call:
    """``inputs`` as they enter the graph, and the ``original`` ones. ``foreign`` code that acts in it runs as part of
    ``under``; None when there is none."""

    inputs: Inputs
    original: Inputs
    foreign: Acting
    under: BlockCall | None
