"""Inductor's folder while one of our graphs compiles: private, of this process, and gone with it.

Inductor unpickles what it finds in its folder, so ours holds nothing but what this process compiled and what the
signed store gave it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = "onediff-compile-"
_PID, _LOCK = "pid", "lock"

#: How `tempfile.mkdtemp` names one.
_NAME = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")
_FOLDERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")

#: What Inductor leaves that nobody needs again.
_PASSING = (".lock", ".tmp", ".pyc")

#: Headers that all of Inductor's C++ includes, compiled before: large, and of use in this process alone.
_HEADERS = "precompiled_headers"

#: Seconds after which a folder without a lock may be one of a process that was killed.
_LEFTOVER = 24 * 3600.0


class NoWorkspace(Exception):
    """There is no private folder to compile in; the text is a sentence with the remedy."""


class Workspace:
    """A folder that is made at once. ``snapshot`` before and ``added`` after a compile tell what it left.

    Raises:
        OSError: when no folder can be made.
    """

    def __init__(self) -> None:
        place = Path(tempfile.gettempdir())
        _remove_leftovers(place)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        self._lock: int | None = None
        try:
            (self.folder / _PID).write_text(str(os.getpid()))
            self._lock = _hold(self.folder / _LOCK)
        except OSError:  # a full disk, at every try
            self.delete()
            raise
        self._precompile: Any = None
        atexit.register(self.delete)

    def delete(self) -> None:
        """What was loaded from it stays in memory, and where a system does not delete what is loaded, the file too."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Inductor and Triton keep their files here meanwhile. Others who compile in this process at the same moment
        do too, which does them no harm: their files stay as long as the process."""
        names = (str(self.folder), str(self.folder / "triton"))
        before = {variable: os.environ.get(variable) for variable in _FOLDERS}
        os.environ.update(zip(_FOLDERS, names, strict=True))
        _forget_folder()
        with contextlib.suppress(OSError):
            os.utime(self.folder)
        try:
            with self._own_headers():
                yield
        finally:
            for variable, value in before.items():
                if value is None:
                    os.environ.pop(variable, None)
                else:
                    os.environ[variable] = value
            _forget_folder()

    @contextlib.contextmanager
    def _own_headers(self) -> Iterator[None]:
        """Inductor precompiles headers in a folder of the temporary folder that no variable moves (torch 2.11), where
        another user may have put some, and remembers where they are."""
        codecache = _codecache()
        folder = self.folder / _HEADERS
        ours: dict[str, Any] = {"_HEADER_DIR": str(folder), "_HEADER_LOCK_DIR": str(folder / "locks")}
        precompile: Any = getattr(codecache, "_precompile_header", None)
        if hasattr(precompile, "__wrapped__"):
            self._precompile = self._precompile or functools.cache(precompile.__wrapped__)
            ours["_precompile_header"] = self._precompile
        with contextlib.ExitStack() as stack:
            for name, value in ours.items():
                if hasattr(codecache, name):
                    stack.enter_context(mock.patch.object(codecache, name, value))
            yield

    def put(self, files: dict[str, bytes]) -> None:
        """Adds files that are not there.

        Raises:
            OSError: when they cannot be written; those that were are gone again.
        """
        written = []
        try:
            for name, content in files.items():
                path = self.folder / name
                if path.exists():
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                written.append(path)
                path.write_bytes(content)
                if path.suffix in (".so", ".pyd", ".dylib"):
                    path.chmod(0o700)
        except OSError:
            for path in written:
                path.unlink(missing_ok=True)
            raise

    def snapshot(self, headers: bool = False) -> dict[str, tuple[int, int]]:
        """Every file that is worth keeping, with its time and size: what graphs left, or GCC's precompiled headers.
        Those of other compilers hold where they were made only."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if path.suffix in _PASSING or name in (_PID, _LOCK) or path.name.startswith(".") or not path.is_file():
                continue
            is_header = name.startswith(f"{_HEADERS}/")
            if is_header != headers or (headers and path.suffix not in (".h", ".gch")):
                continue
            with contextlib.suppress(OSError):  # a temporary file may be gone by now
                facts = path.stat()
                found[name] = (facts.st_mtime_ns, facts.st_size)
        return found

    def added(self, before: dict[str, tuple[int, int]], headers: bool = False) -> list[str]:
        """Files that are new or changed since a snapshot."""
        return [name for name, facts in self.snapshot(headers).items() if before.get(name) != facts]

    @contextlib.contextmanager
    def whole_or_gone(self, before: dict[str, tuple[int, int]]) -> Iterator[None]:
        """When the work inside fails, deletes what was added since a snapshot, for a compiler that was ended may have
        left half a file, and lets Inductor forget it: it would raise the same error at every later try (torch 2.11)."""
        known = [(cache, set(cache)) for cache in _libraries()]
        try:
            yield
        except BaseException:
            for cache, names in known:
                for name in set(cache) - names:
                    cache.pop(name, None)
            for name in self.added(before):
                with contextlib.suppress(OSError):  # where a system does not delete what is loaded
                    (self.folder / name).unlink()
            raise

    def read(self, names: list[str]) -> dict[str, bytes]:
        """The contents of files."""
        return {name: (self.folder / name).read_bytes() for name in names}


def _libraries() -> list[dict[str, Any]]:
    """What Inductor remembers of C++ libraries, by class of code."""
    base = getattr(_codecache(), "CppCodeCache", None)
    classes = [base] if base is not None else []
    for cls in classes:
        classes += cls.__subclasses__()
    caches = {id(cls.cache): cls.cache for cls in classes if isinstance(getattr(cls, "cache", None), dict)}
    return list(caches.values())


def _forget_folder() -> None:
    """The one path below its folder that Inductor remembers."""
    with contextlib.suppress(AttributeError):
        _codecache().CacheBase.get_local_cache_path.cache_clear()


def _codecache() -> Any:
    """Inductor's module of caches, None while nobody has imported it: that takes seconds."""
    return sys.modules.get("torch._inductor.codecache")


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
    return private and _NAME.fullmatch(folder.name) is not None and int((folder / _PID).read_text()[:20]) > 0


def _is_alive(folder: Path) -> bool:
    """Whether a process may still use a folder. Where neither a lock nor the system tells, time does."""
    if fcntl is not None and (folder / _LOCK).exists():
        return _is_held(folder / _LOCK)
    age = time.time() - folder.stat().st_mtime
    if os.name != "posix" or age < _LEFTOVER:  # a container may not see the process that shares its folder
        return age < 7 * _LEFTOVER
    try:
        os.kill(int((folder / _PID).read_text()), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
