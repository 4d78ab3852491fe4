"""Processors from the user's own Python files: ``custom/<file>:<Class>``.

A name that a workflow holds is only ever compared with the classes that are listed; no path is made from it. A file is
loaded when a run asks for one of its classes, never before, and again when its text has changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import logging
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ...patching.ending.stopping import Overdue
from ...patching.user_code import PATIENCE, Attendance, Cancel
from ...patching.user_errors import class_name
from ..authored.make import CannotLoad, failed, make, too_slow
from ..authored.recipe import Recipe, recipe_of, tensors_of
from ..random_numbers import defaults_kept
from ..sites.find import Site
from .latest import FINDING_PATIENCE, Latest
from .latest import PATIENCE as LISTING_PATIENCE
from .listing import Listed, Unlisted, list_files
from .user_files import USER_FOLDER, UserFile, read_source, why_not_read

log = logging.getLogger(__name__)

PREFIX = "custom/"

#: Modules of user files are in sys.modules under this package's name, which nothing can import from.
PRIVATE = "onediff_custom_processors"

_SHOWN = f"models/{USER_FOLDER}"

#: Files that the console names at a time because they cannot be listed, and names that an error offers.
MOST_TOLD = 10


@dataclass
class _Loaded:
    """One text of one file, and what came of it."""

    digest: str
    module: types.ModuleType
    instances: dict[tuple, nn.Module] = field(default_factory=dict)
    recipes: dict[tuple, Recipe] = field(default_factory=dict)


class CustomProcessors:
    """The processors in the ``.py`` files of some folders. ``folders()`` is asked anew each time."""

    def __init__(self, folders: Callable[[], Iterable[str | Path]]):
        self._folders = folders
        self._loaded: dict[str, _Loaded] = {}
        self._listing: Latest[Listed] = Latest(self._list, Listed())
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
        cancel: Cancel | None = None,
        patience: float = PATIENCE,
        site: Site | None = None,
    ) -> nn.Module:
        """The one instance of a class, or the one for ``site`` where its ``__init__`` takes values of that; its own
        weights, where it has any, on ``device`` and in ``dtype``.

        The file is run in a thread of its own, and so is the class's ``__init__``: either can be cancelled, and is
        ended after ``patience`` seconds.

        Raises:
            CannotLoad: for a name that is not listed, and for whatever goes wrong in the file.
        """
        found = self._find(name, FINDING_PATIENCE, cancel.check if cancel else lambda: None)
        if found is None:
            raise _not_listed(name, _names(self._listing.last), self.unlisted())
        file, cls_name = found
        if self._listing.late:
            why = f"{_SHOWN} has not answered for {FINDING_PATIENCE:g} s."
            raise CannotLoad(name, file.shown, "cannot be read", why, "Check the disk or the network that it is on.")
        loaded = self._load(name, file, Attendance(cancel, patience))
        cls = _NAMESPACE.__get__(loaded.module).get(cls_name)
        if not issubclass(type(cls), type):
            raise CannotLoad(
                name,
                file.shown,
                f"has no class {cls_name}",
                "The name means something else once the file has run.",
                f"Leave {cls_name} a class.",
            )
        return _instance(loaded, name, file, cast(type, cls), (device, dtype), site, Attendance(cancel, patience))

    def _list(self) -> Listed:
        listed = list_files(self._folders(), tell=self._listing.offer)
        new = [one for one in listed.unlisted if one not in self._told]
        for one in new[:MOST_TOLD]:
            log.warning("OneDiff: processors in %s cannot be listed. %s %s", one.shown, one.why, one.fix)
        if len(new) > MOST_TOLD:
            log.warning(
                "OneDiff: processors in %d more files of %s cannot be listed either.", len(new) - MOST_TOLD, _SHOWN
            )
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

    def _load(self, name: str, file: UserFile, attendance: Attendance) -> _Loaded:
        """What there is of the file's present text; it is run where there is nothing."""
        try:
            source = attendance.apart(lambda: read_source(file.path), f"{file.shown} to be read")
        except OSError as error:
            raise CannotLoad(name, file.shown, "cannot be read", *why_not_read(error)) from error
        except Overdue as over:
            raise CannotLoad(
                name, file.shown, f"was not read within {over.seconds:g} s", "The disk does not answer.",
                "Check the disk or the network that it is on.",
            ) from over  # fmt: skip
        digest = hashlib.sha256(source).hexdigest()
        loaded = self._loaded.get(file.name)
        if loaded is None or loaded.digest != digest:
            try:
                module = attendance.apart(lambda: _run_file(file, source, digest), f"{file.shown} to be loaded")
            except Overdue as over:
                raise too_slow(name, file.shown, "was not loaded", over, "the class's __init__ or forward") from over
            except attendance.stops:
                raise
            except BaseException as error:  # whatever a file raises, sys.exit() too, is its author's to read
                raise failed(name, str(file.path), file.shown, "cannot be loaded", error) from error
            if loaded is not None:
                _let_go(loaded.module)
            loaded = self._loaded[file.name] = _Loaded(digest, module)
        return loaded


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(read_source(path)).hexdigest()
    except OSError:
        return ""


#: A file may give its module a class of its own, which answers as it likes.
_NAMESPACE = vars(types.ModuleType)["__dict__"]


def _run_file(file: UserFile, source: bytes, digest: str) -> types.ModuleType:
    """Runs a file's text as a module with a private name of its own: Dynamo finds globals by the name of the module,
    and keeps the first of a name. A new thread is outside of inference mode, so weights that the file makes are
    ordinary ones."""
    module = types.ModuleType(f"{PRIVATE}.{file.name.replace('/', '.')}_{digest[:12]}")
    module.__file__ = path = str(file.path)
    code = compile(source, path, "exec")
    # What is read in its source is the text that ran, also when the file is saved meanwhile.
    linecache.cache[path] = (len(source), None, importlib.util.decode_source(source).splitlines(True), path)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses and inspect look there
    try:
        with defaults_kept():
            exec(code, module.__dict__)
        _answering(module)
    except BaseException:
        if sys.modules.get(module.__name__) is module:  # it may have been left behind, and loaded again
            sys.modules.pop(module.__name__)
            if before is not None:
                sys.modules[module.__name__] = before
        raise
    return module


def _answering(module: types.ModuleType) -> None:
    """Makes a module an ordinary one again whose class raises when it is asked: Python asks all modules there are for
    their files where it looks for a line of any, and nobody's processor could be checked."""
    try:
        hasattr(module, "__file__")
    except BaseException:
        object.__setattr__(module, "__class__", types.ModuleType)


def _let_go(module: types.ModuleType) -> None:
    """Drops a module whose file was edited, and what Dynamo noted of it: in a cache, and in our globals."""
    name = _NAMESPACE.__get__(module)["__name__"]
    sys.modules.pop(name, None)
    imported: Any = getattr(sys.modules.get("torch._dynamo.symbolic_convert"), "_import_module", None)
    if hasattr(imported, "cache_clear"):
        imported.cache_clear()
    alias = f"__import_{name.replace('.', '_dot_')}"
    package = __name__.removesuffix(".processors.sources.custom")
    for other, found in list(sys.modules.items()):
        if other.startswith(package) and type(found) is types.ModuleType:
            vars(found).pop(alias, None)


def _instance(
    loaded: _Loaded,
    name: str,
    file: UserFile,
    cls: type,
    place: tuple[torch.device | None, torch.dtype | None],
    site: Site | None,
    attendance: Attendance,
) -> nn.Module:
    """The instance of a class for this device and dtype; classes without weights have one for all. Those of a site may
    hold its layers, so they are not kept here."""
    own = class_name(cls)
    shared = loaded.instances.get((own,))
    if shared is not None:
        return shared
    key: tuple = (own, *place)
    if key not in loaded.instances:
        known = loaded.recipes.get(key)
        processor = make(name, cls, str(file.path), file.shown, attendance, place, site, known)
        recipe = loaded.recipes[key] = recipe_of(processor) or Recipe(cls, place)
        if recipe.per_site:
            return processor
        if not any(True for _ in tensors_of(processor)):
            key = (own,)
        loaded.instances[key] = processor
    return loaded.instances[key]


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
