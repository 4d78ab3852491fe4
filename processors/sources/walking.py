"""The files below a folder: each folder once, whatever links lead to it, and not for ever."""

from __future__ import annotations

import os
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from .user_files import why_not_read

#: What is looked at in all: names of files and folders, and seconds.
MOST_ENTRIES, LONGEST = 20_000, 10.0

#: Bytes from which a file comes after the others of its folder.
LARGE = 2**16

#: Is told what cannot be looked at: its path, why, and what to do, in sentences.
Say = Callable[[Path, str, str], None]


class Limit:
    """How much may still be looked at, of several folders together."""

    def __init__(self, seconds: float = LONGEST):
        self._deadline = time.monotonic() + seconds
        self._entries = MOST_ENTRIES

    def reached(self) -> str | None:
        """Why it ends at this entry, None where it goes on."""
        self._entries -= 1
        if self._entries < 0:
            return f"It is listed in part: it holds more than {MOST_ENTRIES:,} files and folders."
        if time.monotonic() > self._deadline:
            return f"It is listed in part: that took longer than {LONGEST:g} s."
        return None

    def scan(self, folder: Path) -> list[os.DirEntry[str]]:
        """What is in it, small files first: what is listed in part holds most of them."""
        with os.scandir(folder) as found:
            return sorted(islice(found, max(self._entries, 0) + 1), key=lambda entry: (is_large(entry), entry.name))


def walk(folder: Path, ending: str, say: Say, limit: Limit) -> Iterator[os.DirEntry[str]]:
    """What is below ``folder`` and no folder, and whose name ends so, in whatever case.

    A folder that several links lead to is looked at once, under its own name where it has one here. Names that begin
    with "." or "__" are left out.
    """
    seen: set[object] = set()
    own, linked = deque([folder]), deque[Path]()
    while own or linked:
        where = own.popleft() if own else linked.popleft()
        try:
            identity = _identity(where)
            if identity in seen:
                continue
            seen.add(identity)
            entries = limit.scan(where)
        except FileNotFoundError:
            continue  # it was never made, or vanished
        except OSError as error:
            say(where, *why_not_read(error))
            continue
        for entry in entries:
            why = limit.reached()
            if why is not None:
                say(folder, why, "Move what does not belong there elsewhere.")
                return
            if entry.name.startswith((".", "__")):
                continue
            is_wanted = entry.name.lower().endswith(ending)
            try:
                is_folder = entry.is_dir()
            except OSError as error:
                is_folder = False
                if not is_wanted:
                    say(where / entry.name, *why_not_read(error))
            if is_folder:
                (linked if entry.is_symlink() else own).append(where / entry.name)
            elif is_wanted:
                yield entry


def is_large(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.stat().st_size > LARGE
    except OSError:
        return False


def shown_below(folder: Path, path: Path) -> str:
    """A path for people, without this machine's folders, in one line that can be sent to a page."""
    shown = "/".join((*folder.parts[-2:], *path.relative_to(folder).parts))
    if not is_text(shown):
        shown = shown.encode("ascii", "backslashreplace").decode()
    return "".join(one if is_one_line(one) else one.encode("unicode_escape").decode() for one in shown)


def is_text(name: str) -> bool:
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
