"""Files that the pack keeps: read without following links, and written in one piece."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

#: What opening a link, a socket or a pipe without a writer says where it is not followed and not waited for.
_NOT_A_FILE = {errno.ELOOP, errno.EMLINK, errno.ENXIO}


def open_file(path: Path, most: int) -> int:
    """Opens a regular file of at most so many bytes for reading, without following a link and without waiting for a
    writer: asked of the open file, so that it cannot be exchanged between the question and the reading.

    Raises:
        PermissionError: when it is something else.
        OSError: when it cannot be opened.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
        raise PermissionError(f"{path.name} is a link")
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno in _NOT_A_FILE:
            raise PermissionError(f"{path.name} is not a regular file") from error
        raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_size > most:
        os.close(handle)
        raise PermissionError(f"{path.name} is not a regular file of at most {most} bytes")
    return handle


def _number(text: str) -> float:
    """A number that can be computed with.

    Raises:
        ValueError: for NaN and Inf, and for what is as large.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"no number: {text[:20]}")
    return number


def _whole(text: str) -> int:
    _number(text)
    return int(text)


class KeptEntries:
    """A small JSON file of named entries in a folder, or nothing while ``folder`` is None. No failure of the disk is an
    error here, and a damaged file is as none.

    Args:
        name: of the file, without its ending.
        what: it holds, for the console.
        most: bytes of the file that is read.
    """

    def __init__(self, name: str, what: str, most: int, folder: Path | None = None):
        self.name, self.what, self.most, self.folder = name, what, most, folder
        self._lock = threading.Lock()

    def read(self) -> dict[str, Any]:
        if self.folder is None:
            return {}
        try:
            with os.fdopen(open_file(self.folder / f"{self.name}.json", self.most), encoding="utf-8") as file:
                entries = json.load(file, parse_int=_whole, parse_float=_number, parse_constant=_number)
        except (OSError, ValueError, RecursionError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def change(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Writes what ``change`` makes of the entries, where that is something else."""
        if self.folder is None:
            return
        with self._lock:
            entries = self.read()
            changed = change(dict(entries))
            if changed != entries:
                self._write(changed)

    def _write(self, entries: dict[str, Any]) -> None:
        """In one piece, so that a process that is killed here, or another server, leaves no half of a file."""
        assert self.folder is not None
        try:
            self.folder.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=f"{self.name}-", suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(entries, file, indent=1)
                os.replace(name, self.folder / f"{self.name}.json")
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            log.warning("OneDiff: %s cannot be kept in %s: %s", self.what, self.folder, error)
