"""Processors from the user's own Python files: ``custom/<file>:<Class>``.

A name that a workflow holds is only ever compared with the classes that are listed; no path is made from it. A file is
loaded when a run asks for one of its classes, never before, and again when its text has changed.
"""

from __future__ import annotations

import hashlib
import linecache
import logging
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from .making import CannotLoad, failed, make
from .user_files import UserFile, class_names, find_files

log = logging.getLogger(__name__)

PREFIX = "custom/"

#: Modules of user files are in sys.modules under this package's name, which nothing can import from.
PRIVATE = "onediff_custom_processors"

#: Seconds after which a run goes on without a file that is still loading.
PATIENCE = 60.0

#: Seconds after which the console says what the run is waiting for.
QUICK = 0.1


@dataclass
class _Loading:
    """One text of one file, and what came of it."""

    digest: str
    thread: threading.Thread | None = None
    module: types.ModuleType | None = None
    error: BaseException | None = None
    instances: dict[tuple, nn.Module] = field(default_factory=dict)


class CustomProcessors:
    """The processors in the ``.py`` files of some folders. ``folders()`` is asked anew each time."""

    def __init__(self, folders: Callable[[], Iterable[str | Path]]):
        self._folders = folders
        self._loaded: dict[str, _Loading] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """All of them, as ``custom/<file>:<Class>``. Reads the files, runs nothing."""
        files = find_files(self._folders())
        return [f"{PREFIX}{name}:{cls}" for name, file in sorted(files.items()) for cls in class_names(file.path)]

    def fingerprint(self, name: str) -> str:
        """Changes when the text of the file that ``name`` comes from changes; "" for a name that is not listed."""
        found = self._find(name)
        return _digest(found[0].path) if found else ""

    def load(
        self,
        name: str,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        check_interrupt: Callable[[], None] = lambda: None,
        patience: float = PATIENCE,
    ) -> nn.Module:
        """The one instance of a class; its own weights, where it has any, on ``device`` and in ``dtype``.

        The file is run in a thread of its own, so that a slow one can be cancelled (``check_interrupt``) and waited for
        no longer than ``patience`` seconds; a later call finds what it has come to.

        Raises:
            CannotLoad: for a name that is not listed, and for whatever goes wrong in the file.
        """
        found = self._find(name)
        if found is None:
            raise _not_listed(name, self.names())
        file, cls_name = found
        try:
            loading = self._start(file)
        except OSError as error:
            raise CannotLoad(
                name, file.shown, "cannot be read", f"{type(error).__name__}: {error.strerror}.", "Check the file."
            ) from error
        _wait(loading, name, file, check_interrupt, patience)
        if loading.error is not None:
            raise failed(name, str(file.path), file.shown, "cannot be loaded", loading.error)
        cls = getattr(loading.module, cls_name, None)
        if not isinstance(cls, type):
            raise CannotLoad(
                name,
                file.shown,
                f"has no class {cls_name}",
                "The name means something else once the file has run.",
                f"Leave {cls_name} a class.",
            )
        return _instance(loading, name, file, cls, device, dtype)

    def _find(self, name: str) -> tuple[UserFile, str] | None:
        """The file and class that a listed name means."""
        file_name, _, cls_name = name.removeprefix(PREFIX).rpartition(":")
        file = find_files(self._folders()).get(file_name) if name.startswith(PREFIX) else None
        return (file, cls_name) if file is not None and cls_name in class_names(file.path) else None

    def _start(self, file: UserFile) -> _Loading:
        """What there is of the file's present text; a thread that runs it is started where there is none."""
        source = file.path.read_bytes()
        digest = hashlib.sha256(source).hexdigest()
        with self._lock:
            loading = self._loaded.get(file.name)
            if loading is None or loading.digest != digest or loading.error is not None:
                loading = self._loaded[file.name] = _Loading(digest)
                loading.thread = threading.Thread(
                    target=_run_file, args=(loading, file, source), name=f"load {file.name}", daemon=True
                )
                loading.thread.start()
            return loading


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _run_file(loading: _Loading, file: UserFile, source: bytes) -> None:
    """Runs a file's text as a module with a private name. A new thread is outside of inference mode, so weights that
    the file makes are ordinary ones."""
    module = types.ModuleType(f"{PRIVATE}.{file.name.replace('/', '.')}")
    module.__file__ = str(file.path)
    linecache.checkcache(str(file.path))
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses and inspect look there
    try:
        exec(compile(source, str(file.path), "exec"), module.__dict__)
        loading.module = module
    except BaseException as error:  # whatever a file raises, sys.exit() too, is its author's to read
        loading.error = error
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before


def _wait(loading: _Loading, name: str, file: UserFile, check_interrupt: Callable[[], None], patience: float) -> None:
    assert loading.thread is not None
    start = time.monotonic()
    loading.thread.join(QUICK)
    if loading.thread.is_alive():
        log.info("OneDiff: %s is still loading; the run waits for it up to %g s.", file.shown, patience)
    while loading.thread.is_alive():
        loading.thread.join(0.05)
        check_interrupt()
        if loading.thread.is_alive() and time.monotonic() > start + patience:
            raise CannotLoad(
                name,
                file.shown,
                f"is still loading after {patience:g} s",
                "What it does at import takes too long; it goes on in the background.",
                "Run again in a while, or move the slow part into the class's __init__ or forward.",
            )


def _instance(
    loading: _Loading, name: str, file: UserFile, cls: type, device: torch.device | None, dtype: torch.dtype | None
) -> nn.Module:
    """The instance of a class for this device and dtype; classes without weights have one for all."""
    shared = loading.instances.get((cls.__name__,))
    if shared is not None:
        return shared
    key: tuple = (cls.__name__, device, dtype)
    if key not in loading.instances:
        processor = make(name, cls, str(file.path), file.shown)
        if any(True for _ in (*processor.parameters(), *processor.buffers())):
            loading.instances[key] = processor.to(device=device, dtype=dtype)
        else:
            key = (cls.__name__,)
            loading.instances[key] = processor
    return loading.instances[key]


def _not_listed(name: str, known: list[str]) -> CannotLoad:
    listed = f"There is {', '.join(known)}." if known else "There is none there now."
    return CannotLoad(
        name,
        "models/attention_processors",
        "is not among the classes in models/attention_processors",
        "The workflow comes from another machine, or the file was renamed.",
        listed,
    )
