"""The ``.safetensors`` files below some folders, by the names that a node lists."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .latest import PATIENCE, Latest
from .walking import Limit, is_one_line, is_text, shown_below, walk

log = logging.getLogger(__name__)

ENDING = ".safetensors"

#: Files that are listed.
MOST_FILES = 2_000


@dataclass(frozen=True)
class Folder:
    """One of ComfyUI's model folders, which may be several on disk. ``before`` stands before the names of its files."""

    name: str
    before: str
    places: tuple[Path, ...]


@dataclass(frozen=True)
class SafetensorsFile:
    """``shown`` is its path for people: ``models/ipadapter/sub/a.safetensors``."""

    path: Path
    shown: str


@dataclass(frozen=True)
class _Listed:
    files: dict[str, SafetensorsFile] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()


class SafetensorsFiles:
    """Those of ``folders()``, which is asked anew each time."""

    def __init__(self, folders: Callable[[], Iterable[Folder]]):
        self._folders = folders
        self._listing: Latest[_Listed] = Latest(self._list, _Listed())
        self._told: set[str] = set()

    def names(self) -> list[str]:
        """All of them. Where a disk does not answer soon, those of the last look."""
        return list(self._listing.get().files)

    def find(
        self, name: object, patience: float = PATIENCE, check_interrupt: Callable[[], None] = lambda: None
    ) -> SafetensorsFile | None:
        """The file of a listed name: no path is made from one that is not listed."""
        files = self._listing.get(patience, check_interrupt).files
        return files.get(name) if isinstance(name, str) else None

    @property
    def unlisted(self) -> tuple[str, ...]:
        """Sentences on what the last look could not list."""
        late = ("They are still being listed, so new ones may be missing.",) if self._listing.late else ()
        return (*self._listing.last.unlisted, *late)

    def _list(self) -> _Listed:
        files: dict[str, SafetensorsFile] = {}
        unlisted: list[str] = []
        for folder in self._folders():
            here: dict[str, SafetensorsFile] = {}
            limit = Limit()
            for place in folder.places:
                _look_through(place, folder, here, limit, unlisted)
            files |= {f"{folder.before}{name}": here[name] for name in sorted(here)}
        for one in unlisted:
            if one not in self._told:
                log.warning("OneDiff: not all files of processors can be listed. %s", one)
                self._told.add(one)
        return _Listed(files, tuple(unlisted))


def _look_through(
    place: Path, folder: Folder, files: dict[str, SafetensorsFile], limit: Limit, unlisted: list[str]
) -> None:
    def say(path: Path, why: str, fix: str) -> None:
        unlisted.append(f"{shown_below(place, path)}: {why} {fix}")

    for entry in walk(place, ENDING, say, limit):
        if len(files) >= MOST_FILES:
            say(
                place,
                f"It is listed in part: it holds more than {MOST_FILES:,} {ENDING} files.",
                "Move some elsewhere.",
            )
            return
        path = Path(entry.path)
        name = path.relative_to(place).as_posix()
        if is_text(name) and is_one_line(name):
            files.setdefault(name, SafetensorsFile(path, f"models/{folder.name}/{name}"))
