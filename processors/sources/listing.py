"""Which of the user's processors there are, and which files cannot be listed, and why."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...patching.user_errors import error_words
from .user_files import NotRead, UserFile, class_names, why_not_read
from .walking import LONGEST, Limit, is_large, is_one_line, is_text, shown_below, walk

ENDING = ".py"

#: What is listed at most: Python files, classes of a file, letters of a class.
MOST_FILES, MOST_CLASSES, LONGEST_NAME = 1_000, 100, 100

#: Seconds between two looks at what is listed so far.
TELLING = 0.1


@dataclass(frozen=True)
class Unlisted:
    """What could not be listed. ``name`` is a file's as in ``UserFile``, or a folder's with a ``/`` at its end;
    ``why`` and ``fix`` are sentences."""

    name: str
    shown: str
    why: str
    fix: str


@dataclass(frozen=True)
class Listed:
    """Files by name, the processor classes in each, and what could not be listed."""

    files: dict[str, UserFile] = field(default_factory=dict)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unlisted: tuple[Unlisted, ...] = ()


def list_files(
    folders: Iterable[str | Path], seconds: float = LONGEST, tell: Callable[[Listed], None] = lambda listed: None
) -> Listed:
    """The ``.py`` files below the folders, and the processor classes in each.

    The first folder wins where a name is there twice. What takes longer than ``seconds`` is not finished, and that is
    said. ``tell`` is given what is listed so far, from time to time.
    """
    lister, limit = _Lister(tell), Limit(seconds)
    for folder in map(Path, folders):
        lister.look_through(folder, limit)
    return lister.listed


class _Lister:
    def __init__(self, tell: Callable[[Listed], None]):
        self.files: dict[str, UserFile] = {}
        self.classes: dict[str, tuple[str, ...]] = {}
        self.unlisted: list[Unlisted] = []
        self._tell = tell
        self._told = time.monotonic()

    @property
    def listed(self) -> Listed:
        return Listed(dict(self.files), dict(self.classes), tuple(self.unlisted))

    def look_through(self, folder: Path, limit: Limit) -> None:
        def say(path: Path, why: str, fix: str) -> None:
            self._say(folder, path, why, fix)

        for entry in walk(folder, ENDING, say, limit):
            if is_large(entry) or time.monotonic() > self._told + TELLING:
                self._told = time.monotonic()
                self._tell(self.listed)
            if len(self.files) >= MOST_FILES:
                why = f"It is listed in part: it holds more than {MOST_FILES:,} Python files."
                say(folder, why, "Move what holds no processors elsewhere.")
                return
            if entry.name.endswith(ENDING):
                self._file(folder, entry)

    def _file(self, folder: Path, entry: os.DirEntry[str]) -> None:
        path = Path(entry.path)
        try:
            file = UserFile(path.relative_to(folder).with_suffix("").as_posix(), path, folder)
            if file.name in self.files:
                return
            if not is_text(file.name):
                raise NotRead("Its name is not in UTF-8.", "Rename it.")
            if not is_one_line(file.name):
                raise NotRead("Its name has a line break or another control character.", "Rename it.")
            classes = class_names(path)
        except FileNotFoundError:
            if not entry.is_symlink():
                return  # it vanished
            self._say(folder, path, "It is a link that leads nowhere.", "Delete the link, or bring back the file.")
        except OSError as error:
            self._say(folder, path, *why_not_read(error))
        except Exception as error:  # one file never ends the list
            self._say(folder, path, f"It cannot be listed: {error_words(error)}.", "Move it elsewhere.")
        else:
            kept = tuple(name for name in classes[:MOST_CLASSES] if len(name) <= LONGEST_NAME)
            self.files[file.name], self.classes[file.name] = file, kept
            if len(kept) < len(classes):
                most = f"{MOST_CLASSES} with names of up to {LONGEST_NAME} letters are listed"
                self._say(folder, path, f"It has {len(classes):,} processors; at most {most}.", "Split the file.")

    def _say(self, folder: Path, path: Path, why: str, fix: str) -> None:
        below = path.relative_to(folder)
        name = below.with_suffix("").as_posix() if below.suffix == ENDING else f"{below.as_posix()}/".removeprefix("./")
        self.unlisted.append(Unlisted(name, shown_below(folder, path), why, fix))
