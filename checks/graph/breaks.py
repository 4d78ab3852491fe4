"""Where and why Dynamo stopped, read from its errors. The check and the compilers tell it with the same words."""

from __future__ import annotations

import sysconfig
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...patching.user_errors import error_words, said
from ..source import short_path

#: ComfyUI's attentions that read free memory, which no graph can hold.
_MEMORY_READING = {"attention_sub_quad", "attention_split"}
_STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])


@dataclass(frozen=True)
class Break:
    """A line that does not fit into a graph. ``file`` is None where Dynamo does not tell."""

    reason: str
    file: str | None = None
    line: int = 0

    @property
    def where(self) -> str | None:
        """The line as "file:line", without this machine's folders."""
        return f"{short_path(self.file)}:{self.line}" if self.file else None


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, at most 200 characters. One that is no Exception says what it
    is: "SystemExit: 2"."""
    lines = [line.strip() for line in said(error).splitlines() if line.strip()]
    if not lines or not isinstance(error, Exception):
        return error_words(error)
    return lines[0][:200]


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and what caused it, outermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = getattr(error, "inner_exception", None) or error.__cause__
    return chain


def break_of(error: BaseException, files: Container[str] = (), around: Container[str] = ()) -> Break:
    """The break that an error of Dynamo tells of.

    ``files`` are those that a reader looks for: the innermost line in one of them is named. Else it is the innermost
    line outside of installed packages and Python's own library, where there is one. Lines of the files ``around`` are
    never named: they only call what is captured.
    """
    stacks = (list(getattr(cause, "real_stack", None) or []) for cause in causes(error))
    frames = [frame for frame in next(filter(None, stacks), []) if frame.filename not in around]
    shown = [f for f in frames if f.filename in files] or [f for f in frames if _is_own(f.filename)] or frames
    attention = next((f.name for f in frames if f.name in _MEMORY_READING), None)
    reason = (
        f"ComfyUI's {attention} reads free memory. Patch this place with sdpa, or start ComfyUI with"
        " --use-pytorch-cross-attention"
        if attention
        else first_line(error)
    )
    return Break(reason, shown[-1].filename, shown[-1].lineno) if shown else Break(reason)


def _is_own(file: str) -> bool:
    path = Path(file)
    return not {"site-packages", "dist-packages"} & set(path.parts) and _STANDARD_LIBRARY not in path.parents


def recompile_reason(code_name: str) -> str:
    """Why Dynamo compiled the function of this name again, in its own words; "" when it gave no reason."""
    metrics: Any
    from torch._dynamo.utils import get_compilation_metrics

    for metrics in reversed(get_compilation_metrics()):
        if metrics.co_name == code_name and metrics.recompile_reason:
            return metrics.recompile_reason.partition(": ")[2] or metrics.recompile_reason
    return ""
