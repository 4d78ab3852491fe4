"""Which of pytest-xdist's workers takes which file next.

Files of ``e2e`` wait for servers and pages most of the time, and each of their workers holds a server and a browser;
the others compute. So that two cores are neither idle nor short of memory, some workers take the files that wait, one
those that compute, and each goes on with the other kind when there is none of its own left.
"""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadFileScheduling

#: One worker in so many computes.
COMPUTING = 4

#: Files that take longest, by folder, come first, so that no worker is left alone with one of them at the end.
LONGEST = {
    "e2e": (
        *(
            "workflows",
            "old_workflows",
            "presence",
            "custom",
            "canvas",
            "speed_report",
            "hostile_processors",
            "display",
        ),
        *("examples", "accelerate", "beside_others", "hosts", "broken_backends", "example_layout", "custom_canvas"),
    ),
    "checks": ("corpus", "gallery"),
    "compilers": ("control_nets", "families", "session", "vaes", "gains", "memory"),
}

#: Files of ``e2e`` that use the same server, other than the default one, one after the other in one worker.
TOGETHER = {"test_vae.py": "test_workflows.py", "test_old_nodes.py": "test_old_workflows.py"}


def waits(file: str) -> bool:
    return "/e2e/" in file


def longest_first(files: list[str]) -> list[str]:
    """Those in no list as they come, after those that are in one."""
    place = {
        f"tests/{folder}/test_{name}.py": number
        for folder, names in LONGEST.items()
        for number, name in enumerate(names)
    }
    return sorted(files, key=lambda file: place.get(file, len(place)))


class Turns(LoadFileScheduling):
    """pytest-xdist's own for whole files, with another choice of the next one."""

    def _split_scope(self, nodeid: str) -> str:
        folder, _, name = super()._split_scope(nodeid).rpartition("/")
        return f"{folder}/{TOGETHER.get(name, name)}"

    def _assign_work_unit(self, node: Any) -> None:
        computes = int(node.gateway.id.removeprefix("gw")) % COMPUTING == COMPUTING - 1
        files = longest_first(list(self.workqueue))
        chosen = next((file for file in files if waits(file) != computes), files[0])
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)
