"""Failures of Inductor in words: a missing tool is named with what brings it."""

from __future__ import annotations

import torch

from ....checks.graph.breaks import causes, first_line
from ....patching.user_errors import said
from .tools import no_compiler, no_headers, no_triton


def missing_tool(error: Exception, device: torch.device) -> str | None:
    """The tool that a compiler could not find, with the command that mends it; None when it is something else."""
    names = {type(cause).__name__ for cause in causes(error)}
    text = " ".join(said(cause) for cause in causes(error))
    if "Python.h" in text:
        return no_headers()
    if "InvalidCxxCompiler" in names:
        return no_compiler()
    if "CppCompileError" in names:
        return f"the C++ compiler failed: {first_line(causes(error)[-1])}"
    if device.type != "cpu" and ("TritonMissing" in names or "No module named 'triton'" in text):
        return no_triton()
    return None
