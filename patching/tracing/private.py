"""Dynamo without files that it need not read: those that it shares with whoever can write into Inductor's usual folder,
and the sources of what it traces."""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any

from .forgetting import forget_sources, sources_kept


class PrivateTracing:
    """``with`` it, ``torch.compile`` and what it made read and write two kinds of file no more: torch's bisector, which
    may name another backend, and profiles of earlier runs (``TORCH_COMPILE_JOB_ID``), which are unpickled. Any user of
    the machine may have made that folder first. Nor does it open the source of each function that it traces, only to
    name that in a log: the disk of a person's file may not answer any more, and Cancel would wait for it. The Python
    that it writes of graphs is not kept. It is entered at every call of a block, so it is quick."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._instead: list[tuple[Any, str, Any]] | None = None
        self._before: list[tuple[Any, str, Any]] = []
        self._sources = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._instead is None:
                self._instead = _instead()
            self._inside += 1
            if self._inside == 1:  # other threads may trace meanwhile
                self._before = [(owner, name, vars(owner)[name]) for owner, name, _ in self._instead]
                _set(self._instead)
                self._sources = sources_kept()

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _set(self._before)
                if sources_kept() > self._sources:
                    forget_sources(self._sources)


def _set(values: list[tuple[Any, str, Any]]) -> None:
    for owner, name, value in values:
        setattr(owner, name, value)


def _instead() -> list[tuple[Any, str, Any]]:
    """Attributes of torch with what takes their place. A bisection that the user's environment asks for stays."""
    is_asked = any(os.environ.get(f"TORCH_BISECT_{what}") for what in ("BACKEND", "SUBSYSTEM"))
    wanted = (
        ("torch._dynamo.pgo", "", "get_cache_key", lambda: None),
        ("torch._dynamo.symbolic_convert", "", "get_funcname", _no_name),
        ("torch._inductor.compiler_bisector", "CompilerBisector", "bisection_enabled", is_asked),
        ("torch._inductor.compiler_bisector", "CompilerBisector", "read_lines_from_file", staticmethod(_no_lines)),
    )
    found = []
    for module, class_, name, value in wanted:
        try:
            owner: Any = importlib.import_module(module)
        except ImportError:  # torch before 2.6
            continue
        owner = getattr(owner, class_, None) if class_ else owner
        if name in getattr(owner, "__dict__", {}):
            found.append((owner, name, value))
    return found


def _no_lines(_path: str) -> list[str]:
    return []


def _no_name(_file: str, _line: int) -> None:
    return None


#: The one of this process.
PRIVATE_TRACING = PrivateTracing()
