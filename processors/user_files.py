"""The user's own Python files with processors, and the classes in them, read without running anything."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .cached import cached

#: The folder among ComfyUI's model folders where such files are.
USER_FOLDER = "attention_processors"


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


def find_files(folders: Iterable[str | Path]) -> dict[str, UserFile]:
    """All ``.py`` files below the folders by name; the first folder wins where a name is there twice."""
    found: dict[str, UserFile] = {}
    for folder in map(Path, folders):
        for where, below, names in os.walk(folder, followlinks=True):
            below[:] = sorted(name for name in below if not name.startswith((".", "__")))
            for name in sorted(names):
                if name.endswith(".py") and not name.startswith((".", "__")):
                    path = Path(where) / name
                    file = UserFile(path.relative_to(folder).with_suffix("").as_posix(), path, folder)
                    found.setdefault(file.name, file)
    return found


def class_names(path: Path) -> list[str]:
    """Names of the processor classes in a file, in its order; read from its text, so nothing runs.

    A file that Python cannot read gives the names after ``class`` at the start of a line: choosing one of them says
    what is wrong with the file.
    """
    try:
        status = path.stat()
    except OSError:
        return []
    return list(_class_names(path, status.st_mtime_ns, status.st_size))


@cached
def _class_names(path: Path, modified: int, size: int) -> tuple[str, ...]:
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return tuple(re.findall(r"^class (?!_)(\w+)", source.decode(errors="replace"), re.MULTILINE))
    return tuple(_processors(tree))


def _processors(tree: ast.Module) -> list[str]:
    """Public top-level classes that are processors by their bases or by the parameters of what they do.

    A module class that another class of the file makes use of, and that keeps neither contract, is a part of that one.
    """
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
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
        if isinstance(member, ast.Assign | ast.AnnAssign):
            targets = member.targets if isinstance(member, ast.Assign) else [member.target]
            if any(isinstance(target, ast.Name) and target.id == "level" for target in targets):
                return True
    return False
