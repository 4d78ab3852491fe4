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

from .latest import PATIENCE as LISTING_PATIENCE
from .latest import Latest
from .listing import Listed, Unlisted, list_files
from .making import CannotLoad, failed, make
from .user_files import USER_FOLDER, UserFile, read_source, why_not_read

log = logging.getLogger(__name__)

PREFIX = "custom/"

#: Modules of user files are in sys.modules under this package's name, which nothing can import from.
PRIVATE = "onediff_custom_processors"

_SHOWN = f"models/{USER_FOLDER}"

#: Seconds after which a run goes on without a file that is still loading.
PATIENCE = 60.0

#: Seconds after which the console says what the run is waiting for.
QUICK = 0.1

#: Seconds that a run waits for the list of files, which it needs to find its own.
FINDING_PATIENCE = 20.0

#: Files that the console names at a time because they cannot be listed, and names that an error offers.
MOST_TOLD = 10


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
        self._listing = Latest(self._list, Listed())
        self._told: set[Unlisted] = set()
        self._digests: dict[Path, Latest[str]] = {}

    def start_listing(self) -> float:
        """Begins with the list; ``names`` takes when it was asked for."""
        return self._listing.start()

    def names(self, asked: float | None = None) -> list[str]:
        """All of them, as ``custom/<file>:<Class>``. Reads the files, runs nothing. Where that takes long, the last
        list."""
        return _names(self._listing.get(asked=asked))

    def unlisted(self) -> list[Unlisted]:
        """What the last list could not hold."""
        late = Unlisted("", _SHOWN, "It is still being read, so new files may be missing.", "Look again in a while.")
        return [*self._listing.last.unlisted, *([late] if self._listing.late else [])]

    def fingerprint(self, name: str) -> str:
        """Changes when the text of the file that ``name`` comes from changes; "" for a name that is not listed."""
        found = self._find(name)
        if found is None:
            return ""
        path = found[0].path
        return self._digests.setdefault(path, Latest(lambda: _digest(path), "")).get()

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
        found = self._find(name, FINDING_PATIENCE, check_interrupt)
        if found is None:
            raise _not_listed(name, _names(self._listing.last), self.unlisted())
        file, cls_name = found
        if self._listing.late:
            why = f"{_SHOWN} has not answered for {FINDING_PATIENCE:g} s."
            raise CannotLoad(name, file.shown, "cannot be read", why, "Look at the disk or the network that it is on.")
        try:
            loading = self._start(file)
        except OSError as error:
            raise CannotLoad(name, file.shown, "cannot be read", *why_not_read(error)) from error
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

    def _list(self) -> Listed:
        listed = list_files(self._folders())
        new = [one for one in listed.unlisted if one not in self._told]
        for one in new[:MOST_TOLD]:
            log.warning("OneDiff: processors in %s cannot be listed. %s %s", one.shown, one.why, one.fix)
        if len(new) > MOST_TOLD:
            log.warning("OneDiff: nor can those in %d more files of %s.", len(new) - MOST_TOLD, _SHOWN)
        self._told.update(new)
        return listed

    def _find(
        self, name: str, patience: float = LISTING_PATIENCE, check_interrupt: Callable[[], None] = lambda: None
    ) -> tuple[UserFile, str] | None:
        """The file and class that a listed name means."""
        if not name.startswith(PREFIX):
            return None
        listed = self._listing.get(patience, check_interrupt)
        file_name, _, cls_name = name.removeprefix(PREFIX).rpartition(":")
        return (listed.files[file_name], cls_name) if cls_name in listed.classes.get(file_name, ()) else None

    def _start(self, file: UserFile) -> _Loading:
        """What there is of the file's present text; a thread that runs it is started where there is none."""
        source = read_source(file.path)
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
        return hashlib.sha256(read_source(path)).hexdigest()
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


def _names(listed: Listed) -> list[str]:
    return [f"{PREFIX}{file}:{cls}" for file in sorted(listed.classes) for cls in listed.classes[file]]


def _not_listed(name: str, known: list[str], unlisted: list[Unlisted]) -> CannotLoad:
    file_name = name.removeprefix(PREFIX).rpartition(":")[0] if name.startswith(PREFIX) else ""
    for one in unlisted:
        below = one.name.endswith("/") and file_name.startswith(one.name)
        if file_name and (one.name == file_name or below):
            return CannotLoad(name, one.shown, "cannot be listed", one.why, one.fix)
    more = f" and {len(known) - MOST_TOLD} more" if len(known) > MOST_TOLD else ""
    listed = f"There is {', '.join(known[:MOST_TOLD])}{more}." if known else "There is none there now."
    partly = next((f" {one.shown}: {one.why} {one.fix}" for one in unlisted if not one.name), "")
    return CannotLoad(
        name,
        _SHOWN,
        f"is not among the classes in {_SHOWN}",
        f"The workflow comes from another machine, or the file was renamed.{partly}",
        listed,
    )
