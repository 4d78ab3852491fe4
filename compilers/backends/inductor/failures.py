"""Failures of Inductor in words: a missing tool is named with what brings it."""

from __future__ import annotations

import errno
import subprocess
from dataclasses import replace

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
    failure = Failure(tool) if tool else in_words(error)
    return replace(failure, passing=no_room is not None or any(map(_passes, causes(error))))


def _passes(error: BaseException) -> bool:
    """Whether it may not happen again: a full disk, a compiler that was ended."""
    return _was_ended(error) or (isinstance(error, OSError) and error.errno == errno.ENOSPC)


def _was_ended(error: BaseException) -> bool:
    return isinstance(error, subprocess.CalledProcessError) and error.returncode < 0


def _missing_tool(error: Exception, gpu: bool) -> str | None:
    names = {type(cause).__name__ for cause in causes(error)}
    text = " ".join(said(cause) for cause in causes(error))
    if "Python.h" in text:
        return no_headers()
    if "InvalidCxxCompiler" in names:
        return no_compiler()
    if "CppCompileError" in names:
        return f"the C++ compiler failed: {_compilers_words(error)}"
    if gpu and ("TritonMissing" in names or "No module named 'triton'" in text):
        return no_triton()
    return None


def _compilers_words(error: Exception) -> str:
    """What the compiler said first; where it was ended, by which signal."""
    for cause in causes(error):
        if isinstance(cause, subprocess.CalledProcessError) and _was_ended(cause):
            return (
                f"it was ended from outside (signal {-cause.returncode}), as happens where memory runs out. "
                "Free some, and run again."
            )
    output = next(said(cause) for cause in causes(error) if type(cause).__name__ == "CppCompileError")
    _, _, output = output.rpartition("Output:")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    line = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
    return without_folders(line) if line else without_folders(first_line(causes(error)[-1]))
