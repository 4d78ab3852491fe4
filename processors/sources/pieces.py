"""The classes and imports in a Python text, parsed piece by piece: while Python's parser is at work on one, no other
thread runs."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator

from ...parsing import parse

#: Bytes that are parsed in one go: some 20 ms.
LARGE = 2**14

#: Lines of a class statement before its body begins.
_LONGEST_HEAD = 50

#: A line that goes on with what stands above it, or says nothing.
_GOES_ON = re.compile(r"\s*(?:$|[#)\]}]|(?:elif|else|except|finally)\b)")

_NEEDED = re.compile(r"(?:class|from|import|if|try)\b|@")
_STRING = re.compile(r"\"\"\"|'''|\\$", re.MULTILINE)


def statements_in(source: bytes) -> list[ast.stmt]:
    """The statements at the top level of a text; of a large one those that are, or may hold, classes and imports.

    Raises:
        Exception: when it cannot be parsed: SyntaxError, ValueError, RecursionError, MemoryError, LookupError.
    """
    if len(source) <= LARGE:
        return parse(source).body
    lines = importlib.util.decode_source(source).split("\n")
    return [node for piece in _pieces(lines, "") for node in piece]


def _pieces(lines: list[str], indent: str) -> Iterator[list[ast.stmt]]:
    """The statements that begin with this indent, a few at a time."""
    starts = [n for n, line in enumerate(lines) if _starts(line, indent)]
    ends = [*starts[1:], len(lines)]
    at = 0
    while at < len(starts):
        taken = 1
        while True:
            end = min(at + taken, len(starts))
            piece = lines[starts[at] : ends[end - 1]]
            try:
                yield _parsed(piece, indent)
                break
            except SyntaxError:  # it ends in the middle of a string, or between brackets
                if end == len(starts):
                    raise
                taken *= 2
        at = end


def _starts(line: str, indent: str) -> bool:
    own = line[len(indent) :]
    return line.startswith(indent) and own[:1] not in ("", " ", "\t") and not _GOES_ON.match(own)


def _parsed(lines: list[str], indent: str) -> list[ast.stmt]:
    text = "\n".join(lines)
    if indent:
        (whole,) = parse(f"if True:\n{text}").body
        return whole.body if isinstance(whole, ast.If) else []
    if not _NEEDED.match(text) and not _STRING.search(text):
        return []
    if len(text) > LARGE and text.startswith("class"):
        made = _class(lines)
        if made is not None:
            return [made]
    return parse(text).body


def _class(lines: list[str]) -> ast.ClassDef | None:
    """A large class, its body in pieces; None where that is not possible."""
    try:
        for end in range(1, min(_LONGEST_HEAD, len(lines))):
            try:
                (made,) = parse("\n".join([*lines[:end], " pass"])).body
            except SyntaxError:
                continue
            if not isinstance(made, ast.ClassDef):
                return None
            first = next(line for line in lines[end:] if not _GOES_ON.match(line))
            indent = first[: len(first) - len(first.lstrip(" \t"))]
            made.body = [node for piece in _pieces(lines[end:], indent) for node in piece] if indent else []
            return made if made.body else None
    except (SyntaxError, ValueError, StopIteration):
        pass
    return None
