"""Compiler failures in words."""

from __future__ import annotations

import re

import torch

from ...checks.graph.breaks import break_of, causes, first_line
from ...patching.user_errors import is_no_memory
from .protocol import Failure

#: The folders of an absolute path, on Windows too.
_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\s\\/:'\"]+[\\/])+")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in torch or in Triton."""
    return any(is_no_memory(cause) for cause in causes(error))


def without_folders(text: str) -> str:
    """Paths by their last part: records and pictures carry the text. "cannot open /home/anna/x/lib.so" is "cannot open
    lib.so"."""
    return _FOLDERS.sub("", text)


def in_words(error: Exception) -> Failure:
    """What went wrong, for any backend that goes through Dynamo."""
    if is_out_of_memory(error):
        return Failure("it ran out of memory.")
    for cause in causes(error):
        if isinstance(cause, torch._dynamo.exc.FailOnRecompileLimitHit):
            return Failure("it would have to be compiled again and again; Dynamo's limit is reached.")
        if isinstance(cause, torch._dynamo.exc.Unsupported):
            found = break_of(cause)
            where, reason = found.where or "unknown place", found.reason
            return Failure(f"it does not fit into one graph: {reason} ({where}).", {"where": where, "reason": reason})
    cause = causes(error)[-1]
    return Failure(f"{type(cause).__name__}: {without_folders(first_line(cause))}")
