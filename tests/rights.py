"""Folders that this process may not read, also where the tests run as root."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: A user that every system has, and that owns nothing.
NOBODY = 65534


@contextlib.contextmanager
def folder_for_all() -> Iterator[Path]:
    """A temporary folder that every user may look into; pytest's are for one user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def refused(modes: dict[Path, int]) -> Iterator[None]:
    """While it is open these folders have such modes, and root, who may read everything, is somebody else."""
    is_root = os.geteuid() == 0
    for folder, mode in modes.items():
        folder.chmod(mode)
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for folder in modes:
            folder.chmod(0o755)
