"""Inductor's folder while one of our graphs compiles: private, of this process, and gone with it.

Inductor unpickles what it finds in its folder, so ours holds nothing but what this process compiled and what the
signed store gave it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from .plain_paths import PlainPaths
from .private_folder import LOCK, PID, PrivateFolder

_FOLDERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")

#: What Inductor leaves that nobody needs again.
_PASSING = (".lock", ".tmp", ".pyc")

#: Headers that all of Inductor's C++ includes, compiled before: large, and of use in this process alone.
_HEADERS = "precompiled_headers"


class NoWorkspace(Exception):
    """There is no private folder to compile in; the text is a sentence with the remedy."""


class Workspace:
    """A folder that is made at once. ``snapshot`` before and ``added`` after a compile tell what it left.

    Raises:
        OSError: when no folder can be made.
    """

    def __init__(self) -> None:
        self._plain = PlainPaths()
        self._private = PrivateFolder(self._plain.of(Path(tempfile.gettempdir())))
        self.folder = self._private.path
        self._precompile: Any = None
        self._wait_for_headers: Callable[[], object] = lambda: None

    def delete(self) -> None:
        """What was loaded from it stays in memory, and where a system does not delete what is loaded, the file too."""
        self._private.delete()
        self._plain.delete()

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
            with self._own_headers(), self._plain.in_commands():
                yield
        finally:
            for variable, value in before.items():
                if value is None:
                    os.environ.pop(variable, None)
                else:
                    os.environ[variable] = value
            _forget_folder()
            _forget_modules(str(self.folder))

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
            ours["_precompile_header"] = self._precompile_after_reading
        with contextlib.ExitStack() as stack:
            for name, value in ours.items():
                if hasattr(codecache, name):
                    stack.enter_context(mock.patch.object(codecache, name, value))
            yield

    def _precompile_after_reading(self, *args: Any, **kwargs: Any) -> Any:
        self._wait_for_headers()
        return self._precompile(*args, **kwargs)

    @contextlib.contextmanager
    def headers_after(self, wait: Callable[[], object]) -> Iterator[None]:
        """Meanwhile Inductor looks for headers once ``wait`` has returned: they may be on their way here."""
        before, self._wait_for_headers = self._wait_for_headers, wait
        try:
            yield
        finally:
            self._wait_for_headers = before

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
            if path.suffix in _PASSING or name in (PID, LOCK) or path.name.startswith(".") or not path.is_file():
                continue
            is_header = name.startswith(f"{_HEADERS}/")
            if is_header != headers or (headers and path.suffix not in (".h", ".gch")):
                continue
            with contextlib.suppress(OSError):  # a temporary file may be gone by now
                facts = path.stat()
                found[name] = (facts.st_mtime_ns, facts.st_size)
        return found

    def added(self, before: dict[str, tuple[int, int]], headers: bool = False) -> list[str]:
        """Files that are new or changed since a snapshot. A library whose source was there before is none of them: it
        is built beside for another graph."""
        now = self.snapshot(headers)
        return [name for name, facts in now.items() if before.get(name) != facts and source_of(name) not in before]

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


def source_of(name: str) -> str | None:
    """The file that a C++ library is built from, None of other files."""
    return f"{name[:-3]}.cpp" if name.endswith(".so") else None


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


def _forget_modules(folder: str) -> None:
    """Inductor lists every module of code that it has loaded, and never lets go of one, so that it can delete their
    files when it is told to (torch 2.11). Ours are in a folder that goes as a whole."""
    loaded: Any = getattr(getattr(_codecache(), "PyCodeCache", None), "modules", None)
    if isinstance(loaded, list):
        for module in [module for module in loaded if (module.__file__ or "").startswith(folder)]:
            loaded.remove(module)


def _codecache() -> Any:
    """Inductor's module of caches, None while nobody has imported it: that takes seconds."""
    return sys.modules.get("torch._inductor.codecache")
