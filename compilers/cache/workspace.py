"""Inductor's folder while one of our graphs compiles: private, of this process, and gone with it.

Inductor unpickles what it finds in its folder, so ours holds nothing but what this process compiled and what the
signed store gave it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PREFIX = "onediff-compile-"
_PID = "pid"
_FOLDERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")

#: What Inductor leaves that nobody needs again.
_PASSING = (".lock", ".tmp", ".pyc")

#: Seconds after which a folder may be one of a process that was killed.
_LEFTOVER = 24 * 3600.0


class Workspace:
    """A folder that is made at once. ``snapshot`` before and ``added`` after a compile tell what it left.

    Raises:
        OSError: when no folder can be made.
    """

    def __init__(self) -> None:
        place = Path(tempfile.gettempdir())
        _remove_leftovers(place)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        (self.folder / _PID).write_text(str(os.getpid()))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)

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
            yield
        finally:
            for variable, value in before.items():
                if value is None:
                    os.environ.pop(variable, None)
                else:
                    os.environ[variable] = value
            _forget_folder()

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

    def snapshot(self) -> dict[str, tuple[int, int]]:
        """Every file that is worth keeping, with its time and size."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if path.suffix in _PASSING or name == _PID or path.name.startswith(".") or not path.is_file():
                continue
            with contextlib.suppress(OSError):  # a temporary file may be gone by now
                facts = path.stat()
                found[name] = (facts.st_mtime_ns, facts.st_size)
        return found

    def added(self, before: dict[str, tuple[int, int]]) -> list[str]:
        """Files that are new or changed since a snapshot."""
        return [name for name, facts in self.snapshot().items() if before.get(name) != facts]

    def read(self, names: list[str]) -> dict[str, bytes]:
        """The contents of files."""
        return {name: (self.folder / name).read_bytes() for name in names}


def _forget_folder() -> None:
    """The one path below its folder that Inductor remembers."""
    with contextlib.suppress(ImportError, AttributeError):
        from torch._inductor.codecache import CacheBase

        remembered: Any = CacheBase.get_local_cache_path
        remembered.cache_clear()


def _remove_leftovers(place: Path) -> None:
    """Folders of processes that were killed."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            own = os.name != "posix" or folder.lstat().st_uid == os.geteuid()
            if own and not folder.is_symlink() and not _is_alive(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(folder: Path) -> bool:
    """Whether a process may still use a folder. Where processes cannot be asked for, time tells alone."""
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
