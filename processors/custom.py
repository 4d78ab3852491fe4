"""Processors from the user's own Python files: ``custom/<file>:<Class>``.

A name that a workflow holds is only ever compared with the classes that are listed; no path is made from it. A file is
loaded when a run asks for one of its classes, never before, and again when its text has changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import nn

from .making import CannotLoad, failed, make, tensors_of, too_slow
from .user_code import PATIENCE, Attendance, Cancel
from .user_errors import Overdue, class_name
from .user_files import UserFile, class_names, find_files

PREFIX = "custom/"

#: Modules of user files are in sys.modules under this package's name, which nothing can import from.
PRIVATE = "onediff_custom_processors"


@dataclass
class _Loaded:
    """One text of one file, and what came of it."""

    digest: str
    module: types.ModuleType
    instances: dict[tuple, nn.Module] = field(default_factory=dict)


class CustomProcessors:
    """The processors in the ``.py`` files of some folders. ``folders()`` is asked anew each time."""

    def __init__(self, folders: Callable[[], Iterable[str | Path]]):
        self._folders = folders
        self._loaded: dict[str, _Loaded] = {}

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
        cancel: Cancel | None = None,
        patience: float = PATIENCE,
    ) -> nn.Module:
        """The one instance of a class; its own weights, where it has any, on ``device`` and in ``dtype``.

        The file is run in a thread of its own, and so is the class's ``__init__``: either can be cancelled, and is
        ended after ``patience`` seconds.

        Raises:
            CannotLoad: for a name that is not listed, and for whatever goes wrong in the file.
        """
        found = self._find(name)
        if found is None:
            raise _not_listed(name, self.names())
        file, cls_name = found
        loaded = self._load(name, file, Attendance(cancel, patience))
        cls = vars(loaded.module).get(cls_name)
        if not issubclass(type(cls), type):
            raise CannotLoad(
                name,
                file.shown,
                f"has no class {cls_name}",
                "The name means something else once the file has run.",
                f"Leave {cls_name} a class.",
            )
        return _instance(loaded, name, file, cast(type, cls), device, dtype, Attendance(cancel, patience))

    def _find(self, name: str) -> tuple[UserFile, str] | None:
        """The file and class that a listed name means."""
        file_name, _, cls_name = name.removeprefix(PREFIX).rpartition(":")
        file = find_files(self._folders()).get(file_name) if name.startswith(PREFIX) else None
        return (file, cls_name) if file is not None and cls_name in class_names(file.path) else None

    def _load(self, name: str, file: UserFile, attendance: Attendance) -> _Loaded:
        """What there is of the file's present text; it is run where there is nothing."""
        try:
            source = file.path.read_bytes()
        except OSError as error:
            raise CannotLoad(
                name, file.shown, "cannot be read", f"{type(error).__name__}: {error.strerror}.", "Check the file."
            ) from error
        digest = hashlib.sha256(source).hexdigest()
        loaded = self._loaded.get(file.name)
        if loaded is None or loaded.digest != digest:
            try:
                module = attendance.apart(lambda: _run_file(file, source), f"{file.shown} to be loaded")
            except Overdue as over:
                raise too_slow(name, file.shown, "was not loaded", over, "the class's __init__ or forward") from over
            except attendance.stops:
                raise
            except BaseException as error:  # whatever a file raises, sys.exit() too, is its author's to read
                raise failed(name, str(file.path), file.shown, "cannot be loaded", error) from error
            loaded = self._loaded[file.name] = _Loaded(digest, module)
        return loaded


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _run_file(file: UserFile, source: bytes) -> types.ModuleType:
    """Runs a file's text as a module with a private name. A new thread is outside of inference mode, so weights that
    the file makes are ordinary ones."""
    module = types.ModuleType(f"{PRIVATE}.{file.name.replace('/', '.')}")
    module.__file__ = path = str(file.path)
    code = compile(source, path, "exec")
    # What is read in its source is the text that ran, also when the file is saved meanwhile.
    linecache.cache[path] = (len(source), None, importlib.util.decode_source(source).splitlines(True), path)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses and inspect look there
    try:
        exec(code, module.__dict__)
    except BaseException:
        if sys.modules.get(module.__name__) is module:  # it may have been left behind, and loaded again
            sys.modules.pop(module.__name__)
            if before is not None:
                sys.modules[module.__name__] = before
        raise
    return module


def _instance(
    loaded: _Loaded,
    name: str,
    file: UserFile,
    cls: type,
    device: torch.device | None,
    dtype: torch.dtype | None,
    attendance: Attendance,
) -> nn.Module:
    """The instance of a class for this device and dtype; classes without weights have one for all."""
    own = class_name(cls)
    shared = loaded.instances.get((own,))
    if shared is not None:
        return shared
    key: tuple = (own, device, dtype)
    if key not in loaded.instances:
        processor = make(name, cls, str(file.path), file.shown, attendance, (device, dtype))
        if not any(True for _ in tensors_of(processor)):
            key = (own,)
        loaded.instances[key] = processor
    return loaded.instances[key]


def _not_listed(name: str, known: list[str]) -> CannotLoad:
    listed = f"There is {', '.join(known)}." if known else "There is none there now."
    return CannotLoad(
        name,
        "models/attention_processors",
        "is not among the classes in models/attention_processors",
        "The workflow comes from another machine, or the file was renamed.",
        listed,
    )
