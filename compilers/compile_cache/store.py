"""Compiled graphs on disk: one signed file each, written in one piece, the oldest out when there are too many."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import io
import json
import logging
import math
import os
import re
import secrets
import tempfile
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import folder as folders
from .folder import is_nothing, open_file, open_own, told, untrusted

log = logging.getLogger(__name__)

_MAGIC = b"onediff compile cache 1\n"
_ABOUT = "about.json"

# Nothing but files of these names is written or deleted.
_SUFFIX, KEY = ".graph", "onediff.key"
_ENTRY = re.compile(r"[0-9a-f]{64}\.graph")
_UNFINISHED = re.compile(r"onediff-[a-z0-9_]{8}\.tmp")

#: Bytes of an entry that is read, and of the key file, which has 32.
MOST, _KEY_MOST = 2**29, 64

_SAFE_NAME = re.compile(r"[A-Za-z0-9_.+=\-]+(/[A-Za-z0-9_.+=\-]+)*")

#: Seconds after which an unfinished file is a leftover of a process that was killed.
_LEFTOVER = 3600.0


class NotOurs(Exception):
    """A file that was cut off, changed, or written elsewhere. The text says which and what becomes of it."""


@dataclass(frozen=True)
class Deleted:
    """How many entries were deleted, how many are still there, and why."""

    count: int = 0
    left: int = 0
    why: str = ""

    def __add__(self, other: Deleted) -> Deleted:
        return Deleted(self.count + other.count, self.left + other.left, self.why or other.why)


@dataclass(frozen=True)
class Entry:
    """What one compile left: its files by path below Inductor's folder, and the seconds that it took."""

    files: dict[str, bytes]
    seconds: float


class Store:
    """A folder of entries by key (64 hex digits), and the key file that signs them.

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
            with os.fdopen(open_own(path, MOST), "rb") as file:
                content = file.read(MOST)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise NotOurs(f"entry {key[:12]} was not used: it is not a file of this user alone.") from error
        signature = content[len(_MAGIC) : len(_MAGIC) + 32]
        packed = content[len(_MAGIC) + 32 :]
        signed = hmac.compare_digest(signature, _sign(self._secret(), key, packed))
        if not content.startswith(_MAGIC) or not signed:
            raise NotOurs(f"entry {key[:12]} was not used: it is damaged or was written elsewhere.")
        with contextlib.suppress(OSError):
            os.utime(path)  # in use: the last to be dropped
        return _unpack(packed)

    def write(self, key: str, entry: Entry) -> None:
        """Keeps an entry, and drops the oldest ones above the limit.

        Raises:
            OSError: when it cannot be written; nothing is left behind then.
        """
        packed, secret = _pack(entry), self._secret()
        if len(packed) > min(self.limit, MOST - 64):
            return
        _write_whole(self._path(key), _MAGIC + _sign(secret, key, packed) + packed)
        if read_secret(self.folder / KEY) != secret:  # everything was deleted meanwhile
            self.drop(key)
        self.trim()

    def drop(self, key: str) -> None:
        """Removes an entry."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def trim(self) -> None:
        """Drops the entries that were not used for longest until the rest is within the limit, and leftovers."""
        found, now = [], time.time()
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process may drop it too
                facts = path.lstat()
                age = now - facts.st_mtime
                if age < -_LEFTOVER:  # from before the clock was set back
                    age = math.inf
                if is_entry(path):
                    found.append((age, facts.st_size, path))
                elif _UNFINISHED.fullmatch(path.name) and age > _LEFTOVER:
                    path.unlink()
        size = sum(one[1] for one in found)
        for _, bytes_, path in sorted(found, key=lambda one: one[0], reverse=True):
            if size <= self.limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            size -= bytes_

    def _path(self, key: str) -> Path:
        path = self.folder / f"{key}{_SUFFIX}"
        if not _ENTRY.fullmatch(path.name):
            raise ValueError(f"{key} is not 64 hex digits")
        return path

    def _secret(self) -> bytes:
        """From the key file, which is made when there is none. Several processes may make it at once: one wins."""
        path = self.folder / KEY
        for _ in range(3):
            secret = read_secret(path)
            if secret is not None:
                return secret
            path.unlink(missing_ok=True)  # cut off, or not this user's own: a new one takes its place
            _write_whole(path, secrets.token_bytes(32), keep=True)
        raise OSError(errno.EIO, "the key file cannot be made")


def read_secret(path: Path) -> bytes | None:
    """What a key file signs with: only this very file, so that a copy of it signs nothing. None when there is none, or
    none of this user alone.

    Raises:
        OSError: when it cannot be read.
    """
    try:
        with os.fdopen(open_own(path, _KEY_MOST), "rb") as file:
            secret, number = file.read(_KEY_MOST), os.fstat(file.fileno()).st_ino
    except (FileNotFoundError, PermissionError):
        return None
    return hashlib.sha256(secret + str(number).encode()).digest() if len(secret) == 32 else None


def delete_all(folder: Path, key: str = KEY) -> Deleted:
    """Deletes every entry of a folder of this pack, after the key file that signs them: what another process has signed
    by then and not yet written is dropped by it, see `Store.write`. In a folder that would not be used nothing is."""
    try:
        if not folder.is_dir():
            return Deleted()
        refused = untrusted(folder)
        if refused is not None:
            log.warning("OneDiff: nothing in %s is deleted: %s", folder, refused)
            own = [path for path in _entries(folder)[0] if not folders.POSIX or path.lstat().st_uid == os.geteuid()]
            return Deleted(0, len(own), str(refused).rstrip(".") if own else "")
        deleted = delete([folder / key])
        entries, others = _entries(folder)
        unfinished = [folder / name for name in os.listdir(folder) if _UNFINISHED.fullmatch(name)]
    except (OSError, ValueError) as error:
        if is_nothing(error):
            return Deleted()
        log.warning("OneDiff: what is kept in %s could not be deleted: %s", folder, error)
        return Deleted(0, 1, told(error))
    return deleted + delete([*entries, *unfinished]) + others


def _entries(folder: Path) -> tuple[list[Path], Deleted]:
    """The entries in a folder, and what has an entry's name but cannot be looked into."""
    entries, others = [], Deleted()
    for name in os.listdir(folder):
        try:
            if is_entry(folder / name):
                entries.append(folder / name)
        except FileNotFoundError:  # another process was quicker
            continue
        except OSError as error:
            log.warning("OneDiff: %s is left as it is: %s", folder / name, error)
            others += Deleted(0, 1, "not a regular file" if error.errno is None else told(error))
    return entries, others


def delete(paths: Iterable[Path]) -> Deleted:
    """Deletes files, and counts the entries among them. What is gone already was deleted by another process."""
    deleted = Deleted()
    for path in paths:
        try:
            path.unlink(missing_ok=True)
            deleted += Deleted(int(path.suffix == _SUFFIX))
        except OSError as error:
            log.warning("OneDiff: %s could not be deleted: %s", path, error)
            deleted += Deleted(0, 1, told(error))
    return deleted


def is_entry(path: Path, secret: bytes | None = None) -> bool:
    """Whether a file is an entry by its name and first bytes; with a secret, whether that signed it.

    Raises:
        OSError: when it cannot be read.
    """
    if not _ENTRY.fullmatch(path.name):
        return False
    with os.fdopen(open_file(path, MOST), "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return False
        if secret is None:
            return True
        return hmac.compare_digest(file.read(32), _sign(secret, path.stem, file.read(MOST)))


def _sign(secret: bytes, key: str, packed: bytes) -> bytes:
    return hmac.digest(secret, key.encode() + b"\n" + packed, "sha256")


def _write_whole(path: Path, content: bytes, keep: bool = False) -> None:
    """Writes a file that others see whole or not at all; ``keep`` leaves one that is there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix="onediff-", suffix=".tmp")  # for this user alone
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
            seconds = float(about["seconds"])
            if not 0 <= seconds < math.inf:
                raise NotOurs(f"an entry took {seconds} seconds.")
            return Entry({name: archive.read(f"files/{name}") for name in names}, seconds)
    except NotOurs:
        raise
    except Exception as error:  # zipfile has many: other versions, encryption, sizes that no memory holds
        raise NotOurs(f"an entry cannot be read ({error}).") from error
