"""Compiler failures in words."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path

import torch

from ..checks.source import short_path

_INSTALL_COMPILER = {
    "Linux": "install one, for example with “sudo apt install g++”, and restart ComfyUI.",
    "Windows": "install the “Desktop development with C++” part of Visual Studio Build Tools and restart ComfyUI.",
    "Darwin": "run “xcode-select --install” and restart ComfyUI.",
}


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and what caused it, outermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = getattr(error, "inner_exception", None) or error.__cause__
    return chain


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory, in torch or in Triton."""
    return any(isinstance(c, torch.OutOfMemoryError) or "out of memory" in str(c).lower() for c in causes(error))


def missing_tool(error: Exception, device: torch.device) -> str | None:
    """The tool that a compiler could not find, with the command that mends it; None when it is something else."""
    names = {type(cause).__name__ for cause in causes(error)}
    text = " ".join(str(cause) for cause in causes(error))
    system = platform.system()
    if "Python.h" in text:
        return (
            "Python's header files are missing: install them, for example with "
            f"“sudo apt install python{sysconfig.get_python_version()}-dev”, and restart ComfyUI."
        )
    if "InvalidCxxCompiler" in names:
        return f"no working C++ compiler was found: {_INSTALL_COMPILER.get(system, 'install one and restart ComfyUI.')}"
    if "CppCompileError" in names:
        return f"the C++ compiler failed: {first_line(causes(error)[-1])}"
    if device.type != "cpu" and ("TritonMissing" in names or "No module named 'triton'" in text):
        package = "triton-windows" if system == "Windows" else "triton"
        return f"Triton is missing: run “pip install {package}” in ComfyUI's Python and restart ComfyUI."
    return None


def explain(error: Exception) -> tuple[str, dict[str, str] | None]:
    """A failure as one sentence and, when it was a graph break, ``{"where": "file:line", "reason"}``."""
    if is_out_of_memory(error):
        return "it ran out of memory.", None
    tool = missing_tool(error, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if tool:
        return tool, None
    for cause in causes(error):
        if isinstance(cause, torch._dynamo.exc.FailOnRecompileLimitHit):
            return "it would have to be compiled again and again; Dynamo's limit is reached.", None
        if isinstance(cause, torch._dynamo.exc.Unsupported):
            frames = _model_frames(cause)
            where = f"{short_path(frames[-1].filename)}:{frames[-1].lineno}" if frames else "unknown place"
            reason = _break_reason(cause, frames)
            return f"it does not fit into one graph: {reason} ({where}).", {"where": where, "reason": reason}
    cause = causes(error)[-1]
    return f"{type(cause).__name__}: {first_line(cause)}", None


#: ComfyUI's attentions that read free memory, which no graph can hold.
_MEMORY_READING = {"attention_sub_quad", "attention_split"}


def _break_reason(error: BaseException, frames: list) -> str:
    attention = next((frame.name for frame in frames if frame.name in _MEMORY_READING), None)
    if attention:
        return (
            f"ComfyUI's {attention} reads free memory. Patch this place with sdpa, or start ComfyUI with"
            " --use-pytorch-cross-attention"
        )
    return first_line(error)


def _model_frames(error: BaseException) -> list:
    """The stack where capturing stopped, without the parts inside installed packages."""
    frames = list(getattr(error, "real_stack", None) or [])
    own = [frame for frame in frames if not {"site-packages", "dist-packages"} & set(Path(frame.filename).parts)]
    return own or frames
