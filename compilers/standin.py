"""Blocks for backends of OneDiff that compile a module as it is, one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from .graphs import SharedGraph


def standin(
    block: nn.Module,
    graph: SharedGraph,
    compile_module: Callable[[nn.Module], Callable],
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Callable:
    """The block compiled by ``compile_module``, with the graph's forward instead of what is on the block while a
    session samples. It is compiled at the first call, which is counted and ``around`` which something may be."""
    cls = type(block)
    module: nn.Module = cls.__new__(type(cls.__name__, (cls,), {"forward": graph.forward}))
    module.__dict__.update({name: value for name, value in block.__dict__.items() if name != "forward"})
    compiled: list[Callable] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        if compiled:
            result = compiled[0](*args, **kwargs)
        else:
            start = time.perf_counter()
            with around():
                compiled.append(compile_module(module))
                result = compiled[0](*args, **kwargs)
            graph.graphs += 1
            graph.seconds += time.perf_counter() - start
        graph.runs += 1
        return result

    return run
