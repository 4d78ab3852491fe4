"""A folder of this process alone, gone with it: made in a place that others share, and told from what others make."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = "onediff-compile-"
PID, LOCK = "pid", "lock"

#: How `tempfile.mkdtemp` names one.
_NAME = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")

#: Seconds after which a folder without a lock may be one of a process that was killed.
_LEFTOVER = 24 * 3600.0


class PrivateFolder:
    """A folder that is made at once, in ``place``.

    Raises:
        OSError: when it cannot be made; nothing is left then.
    """

    def __init__(self, place: Path) -> None:
        _remove_leftovers(place)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        self._lock: int | None = None
        try:
            (self.path / PID).write_text(str(os.getpid()))
            self._lock = _hold(self.path / LOCK)
        except OSError:  # a full disk, at every try
            self.delete()
            raise
        atexit.register(self.delete)

    def delete(self) -> None:
        """What was loaded from it stays in memory, and where a system does not delete what is loaded, the file too."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_leftovers(place: Path) -> None:
    """Folders of processes that were killed."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            own = os.name != "posix" or folder.lstat().st_uid == os.geteuid()
            if own and not folder.is_symlink() and _is_ours(folder) and not _is_alive(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _hold(path: Path) -> int | None:
    """Locks a file for as long as this process lives, however it ends; None where that cannot be."""
    if fcntl is None:
        return None
    held = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a file system without locks
        os.close(held)
        path.unlink(missing_ok=True)
        return None
    return held


def _is_held(path: Path) -> bool:
    """Whether a process holds the lock, also one that this process does not see, in another container."""
    found = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(found)
    return False


def _is_ours(folder: Path) -> bool:
    """Whether this pack has made a folder: anybody may call one of theirs by a name that begins like ours."""
    status = folder.lstat()
    private = stat.S_ISDIR(status.st_mode) and (os.name != "posix" or not status.st_mode & 0o077)
    return private and _NAME.fullmatch(folder.name) is not None and int((folder / PID).read_text()[:20]) > 0


def _is_alive(folder: Path) -> bool:
    """Whether a process may still use a folder. Where neither a lock nor the system tells, time does."""
    if fcntl is not None and (folder / LOCK).exists():
        return _is_held(folder / LOCK)
    age = time.time() - folder.stat().st_mtime
    if os.name != "posix" or age < _LEFTOVER:  # a container may not see the process that shares its folder
        return age < 7 * _LEFTOVER
    try:
        os.kill(int((folder / PID).read_text()), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
