"""Paths without spaces and quotes for what compiles C++: Inductor puts folders into a command line as they are, and
then splits that as a shell does (torch 2.11, ``torch._inductor.cpp_builder``)."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from .private_folder import PrivateFolder

#: What splits a path there, or goes out of it.
_BREAKS = re.compile(r"[\s'\"\\]")

#: Where links may be made when the temporary folder's own path has such characters.
_PLACES = (Path("/tmp"), Path("/var/tmp"))


class PlainPaths:
    """Links to folders whose paths would be split, in a private folder whose own path is not. It is made when it is
    needed. On Windows, where making links takes a privilege, paths stay as they are."""

    def __init__(self) -> None:
        self._private: PrivateFolder | None = None
        self._links: dict[str, Path] = {}

    def of(self, folder: Path) -> Path:
        """The same folder, by a path that stays whole in a command line.

        Raises:
            OSError: when no link to it can be made.
        """
        if os.name != "posix" or not _BREAKS.search(str(folder)):
            return folder
        link = self._links.get(str(folder))
        if link is None:
            link = self._folder() / str(len(self._links))
            link.symlink_to(folder, target_is_directory=True)
            self._links[str(folder)] = link
        return link

    def _folder(self) -> Path:
        if self._private is None:
            places = [place for place in _PLACES if os.access(place, os.W_OK | os.X_OK)] or list(_PLACES)
            self._private = PrivateFolder(places[0])
        return self._private.path

    @contextlib.contextmanager
    def in_commands(self) -> Iterator[None]:
        """Inductor's commands name links instead of folders of Python, torch and temporary files whose paths would be
        split."""
        broken = _split_folders()
        if os.name != "posix" or not broken:
            yield
            return
        links = {folder: str(self.of(Path(folder))) for folder in broken}
        named = re.compile("|".join(f"{re.escape(folder)}(?![^/\\s'\"])" for folder in broken))
        builder: Any = importlib.import_module("torch._inductor.cpp_builder").CppBuilder
        original = builder.get_command_line

        def get_command_line(self: Any) -> str:
            return named.sub(lambda found: links[found.group()], original(self))

        with mock.patch.object(builder, "get_command_line", get_command_line):
            yield

    def delete(self) -> None:
        """The links; what they lead to stays."""
        if self._private is not None:
            self._private.delete()
        self._private, self._links = None, {}


def folders_are_split() -> bool:
    """Whether Inductor's commands hold only while `PlainPaths.in_commands` is open."""
    return os.name == "posix" and bool(_split_folders())


def _split_folders() -> list[str]:
    return [folder for folder in _folders_in_commands() if _BREAKS.search(folder)]


def _folders_in_commands() -> list[str]:
    """The longest first: one may lie in another. Headers are precompiled by way of the temporary folder."""
    torch = str(Path(str(sys.modules["torch"].__file__)).parent) if "torch" in sys.modules else ""
    folders = {torch, sys.prefix, sys.base_prefix, str(sysconfig.get_config_var("LIBDIR") or ""), tempfile.gettempdir()}
    return sorted(folders - {""}, key=len, reverse=True)
