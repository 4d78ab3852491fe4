"""Compiler failures in words."""

from __future__ import annotations

import torch

from ...checks.graph.breaks import break_of, causes, first_line
from ...patching.user_errors import said
from .protocol import Failure


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory, in torch or in Triton."""
    return any(isinstance(c, torch.OutOfMemoryError) or "out of memory" in said(c).lower() for c in causes(error))


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
    return Failure(f"{type(cause).__name__}: {first_line(cause)}")
