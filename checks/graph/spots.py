"""Places in source code, by what is there."""

from __future__ import annotations

import ast
import linecache
from dataclasses import dataclass, field
from typing import Any

from ...memo import cached
from ...parsing import parse
from ..source import short_path


@dataclass(frozen=True)
class Spot:
    """Lines ``first`` to ``last`` of a file; ``name`` says what is there, ``text`` how it is written."""

    name: str
    file: str
    first: int
    last: int
    text: str = ""

    @property
    def where(self) -> str:
        return f"{short_path(self.file)}:{self.first}"

    def covers(self, file: str | None, line: int) -> bool:
        return file == self.file and self.first <= line <= self.last


@dataclass
class Code:
    """The functions that ``forward`` of a processor reaches in the user's own files, and what they contain.

    ``calls`` have names such as "random.random" or "logging.Logger.debug"; ``writes`` the name of an attribute that is
    set or changed, ``global_writes`` and ``global_reads`` that of a global; ``caught`` spans the body of a ``try``;
    ``uncompiled`` what runs only outside of a graph. ``spans`` are the functions themselves.
    """

    calls: list[Spot] = field(default_factory=list)
    writes: list[Spot] = field(default_factory=list)
    global_writes: list[Spot] = field(default_factory=list)
    global_reads: list[Spot] = field(default_factory=list)
    caught: list[Spot] = field(default_factory=list)
    handlers: list[Spot] = field(default_factory=list)
    uncompiled: list[Spot] = field(default_factory=list)
    spans: list[Spot] = field(default_factory=list)
    globals: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def files(self) -> frozenset[str]:
        return frozenset(spot.file for spot in self.spans)

    def enters_graph(self, file: str, line: int) -> bool:
        """Whether a line is in these functions and not under ``if not torch.compiler.is_compiling()``."""
        inside = any(spot.covers(file, line) for spot in self.spans)
        return inside and not any(spot.covers(file, line) for spot in self.uncompiled)

    def rebound(self, name: str, file: str) -> bool:
        """Whether a function of a file declares a global of this name."""
        return name in _rebound("".join(linecache.getlines(file)))


@cached
def _rebound(source: str) -> frozenset[str]:
    """Names that functions of a file rebind by ``global``; it is read anew when its text has changed."""
    try:
        tree = parse(source)
    except SyntaxError:
        return frozenset()
    return frozenset(name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names)
