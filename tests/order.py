"""In which order files of tests run: what takes longest first, and what shares a server together."""

from __future__ import annotations

from pathlib import Path

#: Files that take longest, by folder, come first, so that no worker is left alone with one of them at the end.
LONGEST = {
    "e2e": (
        *("workflows", "old_workflows", "presence", "custom", "canvas", "warm_start", "speed_report"),
        *("accelerate", "display", "beside_others", "hosts", "hostile_processors", "broken_backends"),
    ),
    "checks": ("corpus", "gallery"),
    "compilers": ("session", "vaes", "gains", "families", "memory", "control_nets"),
}

#: Files of ``e2e`` that use the same server, other than the default one, one after the other in one worker.
TOGETHER = {
    "test_vae.py": "test_workflows.py",
    "test_old_nodes.py": "test_old_workflows.py",
    "test_examples.py": "test_old_workflows.py",
}


def longest_first(files: list[str]) -> list[str]:
    """Those in no list as they come, after those that are in one."""
    place = {
        f"tests/{folder}/test_{name}.py": number
        for folder, names in LONGEST.items()
        for number, name in enumerate(names)
    }
    return sorted(files, key=lambda file: place.get(file, len(place)))


def shared_by(name: str) -> str:
    """The file of tests whose server another one uses, by their names."""
    return TOGETHER.get(name, name)


def side_by_side(path: Path) -> tuple[str, str, bool]:
    """Sorts files so that one of ``TOGETHER`` comes right after the one that it shares a server with."""
    return str(path.parent), shared_by(path.name), path.name in TOGETHER
