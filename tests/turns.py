"""Which of pytest-xdist's workers takes which file next.

Files of ``e2e`` wait for servers and pages most of the time, and each of their workers holds a server and a browser;
the others compute. So that two cores are neither idle nor short of memory, the last one takes files that compute, the
others those that wait, and each goes on with the other kind when there is none of its own left.
"""

from __future__ import annotations

from typing import Any

from order import longest_first, shared_by
from xdist.scheduler import LoadFileScheduling


def waits(file: str) -> bool:
    return "/e2e/" in file


class Turns(LoadFileScheduling):
    """pytest-xdist's own for whole files, with another choice of the next one."""

    def _split_scope(self, nodeid: str) -> str:
        folder, _, name = super()._split_scope(nodeid).rpartition("/")
        return f"{folder}/{shared_by(name)}"

    def _assign_work_unit(self, node: Any) -> None:
        computes = int(node.gateway.id.removeprefix("gw")) % self.numnodes == self.numnodes - 1
        files = longest_first(list(self.workqueue))
        chosen = next((file for file in files if waits(file) != computes), files[0])
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)
