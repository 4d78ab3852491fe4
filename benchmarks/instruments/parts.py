"""Where the seconds of a first picture go: what this pack does in it, and what torch's compiler does."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

#: This pack's functions that are timed, by part: the end of the module's name, class, function. What another part does
#: inside is counted there. A version of the pack that has no such function has no such part.
FUNCTIONS = {
    "start of Inductor": [("compilers.session.compiler", "Compiler", "choose_backend")],
    "check": [
        ("compilers.session.session", "Session", "prepare"),
        ("compilers.session.compiler", "Compiler", "batch_of"),
    ],
    "comparing": [("compilers.session.one_block.first_runs", "FirstRuns", "run")],
    "waiting for C++": [
        ("compilers.backends.inductor.beside", "CppLibrary", "result"),
    ],
    "timing": [
        ("compilers.session.one_block.gain_timing", "GainTiming", "time"),
        ("compilers.session.one_block.gain_timing", "GainTiming", "cannot_gain"),
    ],
}

#: What torch counts of compiling a graph (torch._dynamo.utils.compilation_time_metrics), each within the one before.
COMPILING = {
    "tracing": "_compile.compile_inner",
    "Inductor": "OutputGraph.call_user_compiler",
    "C++ or Triton": "PyCodeCache.load_by_key_path",
}

_seconds: defaultdict[str, float] = defaultdict(float)
_running: list[str] = []
_since = 0.0
_looked_at: dict[str, float] = {}


def watch() -> None:
    """Times the functions from now on."""
    for part, functions in FUNCTIONS.items():
        for module, owner, name in functions:
            for found in [loaded for key, loaded in list(sys.modules.items()) if key.endswith(f".{module}")]:
                function = getattr(getattr(found, owner, None), name, None)
                if function is not None and not hasattr(function, "__wrapped__"):
                    setattr(getattr(found, owner), name, _timed(part, function))


def _timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with _inside(part):
            return function(*args, **kwargs)

    return timed


@contextlib.contextmanager
def _inside(part: str) -> Iterator[None]:
    _count()
    _running.append(part)
    try:
        yield
    finally:
        _count()
        _running.pop()


def _count() -> None:
    global _since
    now, compiled = time.perf_counter(), _compiling()
    if _running:
        _seconds[_running[-1]] += now - _since - (compiled - _looked_at.get("in a part", compiled))
    _since, _looked_at["in a part"] = now, compiled


def _metric(name: str) -> float:
    from torch._dynamo.utils import compilation_time_metrics

    return sum(compilation_time_metrics.get(name, ()))


def _compiling() -> float:
    return _metric(COMPILING["tracing"])


def parts() -> dict[str, float]:
    """Seconds since the last call, by part; and of processor time, this process' and that of the compilers that it
    started."""
    names = [*COMPILING.values(), ""]
    total = {name: _metric(name) for name in COMPILING.values()}
    found = {
        part: total[name] - total.get(inner, 0.0)
        for (part, name), inner in zip(COMPILING.items(), names[1:], strict=True)
    }
    times = os.times()
    found |= dict(_seconds)
    found |= {"own CPU": times.user + times.system, "compilers' CPU": times.children_user + times.children_system}
    since = {part: seconds - _looked_at.get(part, 0.0) for part, seconds in found.items()}
    _looked_at.update(found)
    return since
