"""Compiler failures in words."""

from __future__ import annotations

import torch

from ..checks.graph.breaks import break_of, causes, first_line
from .cache import NoWorkspace
from .tools import no_compiler, no_headers, no_triton


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory, in torch or in Triton."""
    return any(isinstance(c, torch.OutOfMemoryError) or "out of memory" in str(c).lower() for c in causes(error))


def missing_tool(error: Exception, device: torch.device) -> str | None:
    """The tool that a compiler could not find, with the command that mends it; None when it is something else."""
    names = {type(cause).__name__ for cause in causes(error)}
    text = " ".join(str(cause) for cause in causes(error))
    if "Python.h" in text:
        return no_headers()
    if "InvalidCxxCompiler" in names:
        return no_compiler()
    if "CppCompileError" in names:
        return f"the C++ compiler failed: {first_line(causes(error)[-1])}"
    if device.type != "cpu" and ("TritonMissing" in names or "No module named 'triton'" in text):
        return no_triton()
    return None


def explain(error: Exception) -> tuple[str, dict[str, str] | None]:
    """A failure as one sentence and, when it was a graph break, ``{"where": "file:line", "reason"}``."""
    if is_out_of_memory(error):
        return "it ran out of memory.", None
    tool = missing_tool(error, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if tool:
        return tool, None
    for cause in causes(error):
        if isinstance(cause, NoWorkspace):
            return str(cause), None
        if isinstance(cause, torch._dynamo.exc.FailOnRecompileLimitHit):
            return "it would have to be compiled again and again; Dynamo's limit is reached.", None
        if isinstance(cause, torch._dynamo.exc.Unsupported):
            found = break_of(cause)
            where, reason = found.where or "unknown place", found.reason
            return f"it does not fit into one graph: {reason} ({where}).", {"where": where, "reason": reason}
    cause = causes(error)[-1]
    return f"{type(cause).__name__}: {first_line(cause)}", None
