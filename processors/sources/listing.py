"""Which of the user's processors there are, and which files cannot be listed, and why."""

from __future__ import annotations

import os
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ...patching.user_errors import error_words
from .user_files import NotRead, UserFile, class_names, why_not_read

#: What is listed at most: Python files, names in all folders, classes of a file, letters of a class, seconds.
MOST_FILES, MOST_ENTRIES, MOST_CLASSES, LONGEST_NAME, LONGEST = 1_000, 20_000, 100, 100, 10.0


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


#: Bytes from which a file is read after the others, and seconds between two looks at what is listed so far.
LARGE, TELLING = 2**16, 0.1


def list_files(
    folders: Iterable[str | Path], seconds: float = LONGEST, tell: Callable[[Listed], None] = lambda listed: None
) -> Listed:
    """The ``.py`` files below the folders, and the processor classes in each.

    The first folder wins where a name is there twice. A folder that several links lead to is looked at once, under its
    own name where it has one here. What takes longer than ``seconds`` is not finished, and that is said. ``tell`` is
    given what is listed so far, from time to time.
    """
    lister = _Lister(time.monotonic() + seconds, tell)
    for folder in map(Path, folders):
        lister.walk(folder)
    return lister.listed


def _order(entry: os.DirEntry[str]) -> tuple[bool, str]:
    """Small files first: what is listed in part holds most of them."""
    try:
        is_large = entry.stat().st_size > LARGE
    except OSError:
        is_large = False
    return is_large, entry.name


class _Lister:
    def __init__(self, deadline: float, tell: Callable[[Listed], None]):
        self.files: dict[str, UserFile] = {}
        self.classes: dict[str, tuple[str, ...]] = {}
        self.unlisted: list[Unlisted] = []
        self._deadline = deadline
        self._entries = MOST_ENTRIES
        self._tell = tell
        self._told = time.monotonic()

    @property
    def listed(self) -> Listed:
        return Listed(dict(self.files), dict(self.classes), tuple(self.unlisted))

    def walk(self, folder: Path) -> None:
        seen: set[object] = set()
        own, linked = deque([folder]), deque[Path]()
        while own or linked:
            where = own.popleft() if own else linked.popleft()
            try:
                identity = _identity(where)
                if identity in seen:
                    continue
                seen.add(identity)
                with os.scandir(where) as found:
                    entries = sorted(islice(found, self._entries + 1), key=_order)
            except FileNotFoundError:
                continue  # it was never made, or vanished
            except OSError as error:
                self._say(folder, where, *why_not_read(error))
                continue
            for entry in entries:
                is_large, _ = _order(entry)
                if is_large or time.monotonic() > self._told + TELLING:
                    self._told = time.monotonic()
                    self._tell(self.listed)
                limit = self._limit()
                if limit is not None:
                    self._say(folder, folder, limit, "Move what holds no processors elsewhere.")
                    return
                if not entry.name.startswith((".", "__")):
                    self._entry(folder, where, entry, own, linked)

    def _limit(self) -> str | None:
        """Why the listing stops here, None where it goes on."""
        self._entries -= 1
        if self._entries < 0:
            return f"It is listed in part: it holds more than {MOST_ENTRIES:,} files and folders."
        if len(self.files) >= MOST_FILES:
            return f"It is listed in part: it holds more than {MOST_FILES:,} Python files."
        if time.monotonic() > self._deadline:
            return f"It is listed in part: that took longer than {LONGEST:g} s."
        return None

    def _entry(self, folder: Path, where: Path, entry: os.DirEntry[str], own: deque, linked: deque) -> None:
        path = where / entry.name
        try:
            if entry.is_dir():
                (linked if entry.is_symlink() else own).append(path)
                return
            if not entry.name.endswith(".py"):
                return
            file = UserFile(path.relative_to(folder).with_suffix("").as_posix(), path, folder)
            if file.name in self.files:
                return
            if not _is_text(file.name):
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
        name = below.with_suffix("").as_posix() if below.suffix == ".py" else f"{below.as_posix()}/".removeprefix("./")
        shown = "/".join((*folder.parts[-2:], *below.parts))
        if not _is_text(shown):
            shown = shown.encode("ascii", "backslashreplace").decode()
        shown = "".join(one if is_one_line(one) else one.encode("unicode_escape").decode() for one in shown)
        self.unlisted.append(Unlisted(name, shown, why, fix))


def _is_text(name: str) -> bool:
    """Whether a file's name can be sent to a page: one that is not in UTF-8 cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_one_line(text: str) -> bool:
    """Whether a name can stand in a line: it has neither line breaks nor other control characters."""
    return not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text)


def _identity(folder: Path) -> object:
    """What all paths to one folder have in common. Some file systems number no files."""
    status = os.stat(folder)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)
