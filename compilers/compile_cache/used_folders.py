"""Folders of the user's own in which compiled code was kept: clearing reaches them after another one was named."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
from pathlib import Path

from .folder import open_file

log = logging.getLogger(__name__)

NAME = "compile_cache_folders.json"

#: Folders that are remembered, and bytes of the file that is read.
MOST, MOST_BYTES = 32, 2**18

#: Threads that use folders at once change the file one after the other.
_CHANGING = threading.Lock()


class CacheFolders:
    """The real paths of the pack's own subfolders, the last used one first, in a file of the folder ``own``."""

    def __init__(self, own: Path, subfolder: str):
        self._file = own / NAME
        self._subfolder = subfolder

    def remembered(self) -> tuple[Path, ...]:
        """Those that are still folders of the pack's name, at the same real path."""
        return tuple(path for path in map(Path, self._read()) if self._is_there(path))

    def remember(self, folder: Path) -> None:
        """Notes a folder that is used; those that are gone make room for it."""
        with _CHANGING:
            self._remember(folder)

    def _remember(self, folder: Path) -> None:
        known = self._read()
        name = str(folder)
        if known[:1] == [name] or folder.name != self._subfolder or folder.parent == self._file.parent:
            return
        others = [other for other in known if other != name]
        if len(others) >= MOST:
            others = [other for other in others if self._is_there(Path(other))]
        try:
            self._write([name, *others[: MOST - 1]])
        except OSError as error:
            log.warning("OneDiff: %s cannot be written: %s", self._file, error)

    def _is_there(self, path: Path) -> bool:
        try:
            return path.name == self._subfolder and path.is_dir() and path.resolve() == path
        except (OSError, RuntimeError, ValueError):
            return False

    def _read(self) -> list[str]:
        try:
            with os.fdopen(open_file(self._file, MOST_BYTES), "rb") as file:
                found = json.loads(file.read(MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return []
        return [name for name in found if isinstance(name, str)][:MOST] if isinstance(found, list) else []

    def _write(self, names: list[str]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(dir=self._file.parent, prefix="onediff-", suffix=".tmp")  # this user's alone
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(names, file)
            os.replace(made, self._file)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(made)
