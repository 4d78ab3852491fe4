"""Parsing Python text while other threads do: the list of processors is made beside a check that reads their source."""

from __future__ import annotations

import ast

#: Tries before the error is one of the text.
_TRIES = 10


def parse(source: str | bytes) -> ast.Module:
    """``ast.parse``, tried again after a SystemError: in Python 3.11 all threads share its count of levels, and find
    "AST constructor recursion depth mismatch" in any text (https://github.com/python/cpython/issues/106905).

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: what ``ast.parse`` raises.
    """
    for _ in range(_TRIES):
        try:
            return ast.parse(source)
        except SystemError:
            continue
    return ast.parse(source)
