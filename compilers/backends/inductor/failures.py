"""Failures of Inductor in words: a missing tool is named with what brings it."""

from __future__ import annotations

import torch

from ....checks.graph.breaks import causes, first_line
from ....patching.user_errors import said
from ...compile_cache import NoWorkspace
from ..errors_in_words import in_words, is_out_of_memory, without_folders
from ..protocol import Failure
from .tools import no_compiler, no_headers, no_triton


def explain(error: Exception) -> Failure:
    """A failure as `errors_in_words.in_words` has it; a missing tool with the command that brings it."""
    if is_out_of_memory(error):
        return in_words(error)
    no_room = next((str(cause) for cause in causes(error) if isinstance(cause, NoWorkspace)), None)
    tool = _missing_tool(error, gpu=torch.cuda.is_available()) or no_room
    return Failure(tool) if tool else in_words(error)


def _missing_tool(error: Exception, gpu: bool) -> str | None:
    names = {type(cause).__name__ for cause in causes(error)}
    text = " ".join(said(cause) for cause in causes(error))
    if "Python.h" in text:
        return no_headers()
    if "InvalidCxxCompiler" in names:
        return no_compiler()
    if "CppCompileError" in names:
        return f"the C++ compiler failed: {without_folders(first_line(causes(error)[-1]))}"
    if gpu and ("TritonMissing" in names or "No module named 'triton'" in text):
        return no_triton()
    return None
