"""Compiled graphs on disk: one signed file each, written in one piece, the oldest out when there are too many."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import logging
import os
import re
import secrets
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folder import open_own

log = logging.getLogger(__name__)

_MAGIC = b"onediff compile cache 1\n"
_SUFFIX = ".graph"
_ABOUT = "about.json"
_SAFE_NAME = re.compile(r"[A-Za-z0-9_.+=\-]+(/[A-Za-z0-9_.+=\-]+)*")

#: Seconds after which an unfinished file is a leftover of a process that was killed.
_LEFTOVER = 3600.0


class NotOurs(Exception):
    """A file that was cut off, changed, or written elsewhere. The text says which and what becomes of it."""


@dataclass(frozen=True)
class Entry:
    """What one compile left: its files by path below Inductor's folder, and the seconds that it took."""

    files: dict[str, bytes]
    seconds: float


class Store:
    """A folder of entries by key, and the key file that signs them.

    The signature covers the entry's name and, through the key file's number in its file system, this very folder: a
    copy of the folder from elsewhere holds nothing that would be taken. Several processes may share it: every file is
    replaced as a whole and never changed.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder = folder
        self.limit = limit

    def read(self, key: str) -> Entry | None:
        """The entry of a key, None when there is none.

        Raises:
            NotOurs: before anything of a corrupted, truncated or foreign file is looked at.
            OSError: when it cannot be read.
        """
        path = self._path(key)
        try:
            with os.fdopen(open_own(path), "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise NotOurs(f"{path.name} was not used: it is not a file of this user alone.") from error
        signature = content[len(_MAGIC) : len(_MAGIC) + 32]
        packed = content[len(_MAGIC) + 32 :]
        if not content.startswith(_MAGIC) or not hmac.compare_digest(signature, self._sign(key, packed)):
            raise NotOurs(f"{path.name} was not used: it is damaged or was written elsewhere.")
        with contextlib.suppress(OSError):
            os.utime(path)  # in use: the last to be dropped
        return _unpack(packed)

    def write(self, key: str, entry: Entry) -> None:
        """Keeps an entry, and drops the oldest ones above the limit.

        Raises:
            OSError: when it cannot be written; nothing is left behind then.
        """
        packed = _pack(entry)
        if len(packed) > self.limit:
            return
        _write_whole(self._path(key), _MAGIC + self._sign(key, packed) + packed)
        self.trim()

    def drop(self, key: str) -> None:
        """Removes an entry."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def clear(self) -> int:
        """Removes every entry; how many there were."""
        paths = list(self.folder.glob(f"*{_SUFFIX}"))
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink()
        return len(paths)

    def trim(self) -> None:
        """Drops the entries that were not used for longest until the rest is within the limit, and leftovers."""
        found = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process may drop it too
                facts = path.stat()
                if path.suffix == _SUFFIX:
                    found.append((facts.st_mtime, facts.st_size, path))
                elif path.suffix == ".tmp" and time.time() - facts.st_mtime > _LEFTOVER:
                    path.unlink()
        size = sum(one[1] for one in found)
        for _, bytes_, path in sorted(found, key=lambda one: one[0]):
            if size <= self.limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            size -= bytes_

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _sign(self, key: str, packed: bytes) -> bytes:
        return hmac.digest(self._secret(), key.encode() + b"\n" + packed, "sha256")

    def _secret(self) -> bytes:
        """From the key file, which is made when there is none. Several processes may make it at once: one wins."""
        path = self.folder / "key"
        for _ in range(3):
            try:
                with os.fdopen(open_own(path), "rb") as file:
                    secret, number = file.read(64), os.fstat(file.fileno()).st_ino
                if len(secret) == 32:
                    return hashlib.sha256(secret + str(number).encode()).digest()
                path.unlink(missing_ok=True)
            except FileNotFoundError:
                pass
            except PermissionError:  # not this user's own: a new one takes its place
                path.unlink(missing_ok=True)
            _write_whole(path, secrets.token_bytes(32), keep=True)
        raise OSError(f"the key file {path} cannot be made")


def _write_whole(path: Path, content: bytes, keep: bool = False) -> None:
    """Writes a file that others see whole or not at all; ``keep`` leaves one that is there."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")  # for this user alone
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not keep:
            os.replace(name, path)
            return
        with contextlib.suppress(FileExistsError):
            if os.name == "posix":
                os.link(name, path)
            else:
                os.rename(name, path)  # raises there when the name is taken
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)


def _pack(entry: Entry) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(_ABOUT, json.dumps({"seconds": entry.seconds}))
        for name, content in entry.files.items():
            archive.writestr(f"files/{name}", content)
    return buffer.getvalue()


def _unpack(packed: bytes) -> Entry:
    """Only what was signed here comes this far; a name that leads elsewhere is refused all the same."""
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            about: Any = json.loads(archive.read(_ABOUT))
            names = [name.removeprefix("files/") for name in archive.namelist() if name.startswith("files/")]
            if not all(_SAFE_NAME.fullmatch(name) and ".." not in name.split("/") for name in names):
                raise NotOurs("an entry names files outside of the cache.")
            return Entry({name: archive.read(f"files/{name}") for name in names}, float(about["seconds"]))
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError) as error:
        raise NotOurs(f"an entry cannot be read ({error}).") from error
