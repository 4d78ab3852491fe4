"""The user's own Python files with processors, and the classes in them, read without running anything."""

from __future__ import annotations

import ast
import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ...memo import cached
from .pieces import statements_in

#: The folder among ComfyUI's model folders where such files are.
USER_FOLDER = "attention_processors"

#: Bytes of a file that is read.
LARGEST = 256 * 1024


@dataclass(frozen=True)
class UserFile:
    """One ``.py`` file. ``name`` is its path below its folder without ``.py``, with ``/``: ``sub/mine``."""

    name: str
    path: Path
    folder: Path

    @property
    def shown(self) -> str:
        """The path for people, without this machine's folders: ``models/attention_processors/sub/mine.py``."""
        return "/".join((*self.folder.parts[-2:], f"{self.name}.py"))


class NotRead(OSError):
    """A file that is not read. ``why`` and ``fix`` are sentences."""

    def __init__(self, why: str, fix: str):
        super().__init__(errno.EINVAL, why.rstrip("."))
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return self.why


def why_not_read(error: OSError) -> tuple[str, str]:
    """Why a file or folder cannot be read, and what to do."""
    if isinstance(error, NotRead):
        return error.why, error.fix
    if isinstance(error, PermissionError):
        owner = "Give the user that ComfyUI runs as the right to read it; in Docker, look at the owner of the volume."
        return f"ComfyUI may not read it: {type(error).__name__}, {error.strerror}.", owner
    if error.errno == errno.ELOOP:
        return "It is a link that leads back to itself.", "Delete the link."
    return f"{type(error).__name__}: {error.strerror or error}.", "Check the file and the disk that it is on."


def read_source(path: Path, most: int = LARGEST) -> bytes:
    """The bytes of a file. Nothing else is opened: a pipe would wait for its writer, a device may act.

    Raises:
        OSError: for what cannot be read; ``NotRead`` for what is no file, or larger than ``most`` bytes.
    """
    _check_regular(os.stat(path))
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        _check_regular(os.fstat(handle))  # it may have become something else
        source = file.read(most + 1)
    if len(source) > most:
        raise _too_large(most)
    return source


def _check_regular(status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return
    kinds = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    kind = next((kind for kind, is_it in kinds.items() if is_it(mode)), "a device")
    raise NotRead(f"It is {kind}, not a file.", "Move it elsewhere.")


def _too_large(most: int) -> NotRead:
    why = f"It is larger than {most // 1024} KiB, the most that is read."
    return NotRead(why, "Move the processor into a file of its own.")


def class_names(path: Path) -> tuple[str, ...]:
    """Names of the processor classes in a file, in its order; read from its text, so nothing runs.

    A file that Python cannot read gives the names after ``class`` at the start of a line: choosing one of them says
    what is wrong with the file.

    Raises:
        OSError: for a file that cannot be read, or in which neither can be found.
    """
    status = os.stat(path)
    _check_regular(status)
    if status.st_size > LARGEST:
        raise _too_large(LARGEST)
    return _class_names(path, status.st_mtime_ns, status.st_size)


@cached
def _class_names(path: Path, modified: int, size: int) -> tuple[str, ...]:
    source = read_source(path)
    if b"class" not in source:
        return ()
    try:
        return tuple(_processors(statements_in(source)))
    except Exception as error:  # a coding may raise anything, and what is nested too deep RecursionError or MemoryError
        names = tuple(re.findall(r"^class (?!_)(\w+)", source.decode(errors="replace"), re.MULTILINE))
        if not names:
            line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            raise NotRead(f"Python cannot read it: {type(error).__name__}{line}.", "Correct the file.") from error
        return names


def _processors(statements: list[ast.stmt]) -> list[str]:
    """Public top-level classes that are processors by their bases or by the parameters of what they do.

    A module class that another class of the file makes use of, and that keeps neither contract, is a part of that one.
    """
    classes = {node.name: node for node in statements if isinstance(node, ast.ClassDef)}
    modules: set[str] = set()
    for name, node in classes.items():  # a base stands above its subclasses
        bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
        if any(base in modules or base.endswith(("Module", "Processor", "Processor2_0")) for base in bases):
            modules.add(name)
    used = {
        node.id
        for other in classes.values()
        for node in ast.walk(other)
        if isinstance(node, ast.Name) and node.id in classes
    }
    return [
        name
        for name, node in classes.items()
        if not name.startswith("_") and (_keeps_a_contract(node) or (name in modules and name not in used))
    ]


def _keeps_a_contract(node: ast.ClassDef) -> bool:
    """Whether ``forward`` or ``__call__`` starts as a processor's does, or the class says its level."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name in ("forward", "__call__"):
            names = [argument.arg for argument in (*member.args.posonlyargs, *member.args.args)][1:4]
            if names[:1] == ["attn"] or names[1:2] == ["hidden_states"]:
                return True
            if names in (["q", "k", "v"], ["query", "key", "value"]):
                return True
            if names[:1] in (["x"], ["hidden_states"]) and {"context", "encoder_hidden_states"} & set(names[1:]):
                return True
            if names == ["hidden_states"] and member.args.vararg and member.args.kwarg:
                return True
        if isinstance(member, ast.Assign | ast.AnnAssign):
            targets = member.targets if isinstance(member, ast.Assign) else [member.target]
            if any(isinstance(target, ast.Name) and target.id == "level" for target in targets):
                return True
    return False
