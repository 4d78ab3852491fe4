"""Lets go of what torch keeps of functions that it compiled and that are gone: some MB each (torch 2.11)."""

from __future__ import annotations

import contextlib
import functools
import linecache
import re
import sys
import types
import weakref
from typing import Any

import torch

#: The name of a file that stands for the Python of a graph, with its number.
_GENERATED = re.compile(r"<eval_with_key>\.(\d+)")


def sizes_in_tracing() -> Any:
    """What torch knows of sizes while it traces, None where it traces nothing: a ``ShapeEnv``."""
    from torch._guards import TracingContext

    context = TracingContext.try_get()
    return getattr(context and context.fake_mode, "shape_env", None)


def end_tracing(sizes: Any) -> None:
    """Takes from what is known of sizes, a ``ShapeEnv`` or None, the tensors that it was learned from: their sizes hold
    it in turn, where Python does not see it, so that all of the graph stayed, some thousand objects (torch 2.11)."""
    if sizes is not None:
        sizes.tracked_fakes = None
        getattr(sizes, "fake_tensor_cache", {}).clear()


def _loader() -> Any:
    """What torch keeps the Python of graphs in; None while nobody has imported it."""
    return getattr(sys.modules.get("torch.fx.graph_module"), "_loader", None)


def sources_kept() -> int:
    """How many graphs torch has written as Python so far."""
    return getattr(_loader(), "next_id", 0)


def forget_sources(before: int) -> None:
    """Lets go of the Python of those that came after so many: torch keeps all of it, for whoever prints a traceback."""
    cache = getattr(_loader(), "eval_cache", {})
    for name in list(cache):
        number = _GENERATED.match(name)
        if number is not None and int(number[1]) >= before:
            cache.pop(name, None)
            linecache.cache.pop(name, None)


def forget_traced(code: types.CodeType) -> None:
    """Lets go of what was compiled for a function that is gone. Dynamo maps what it compiled to the code that it was
    compiled from, and keeps the first with the second: neither goes by itself. What torch remembers of questions about
    sizes, and of what operations give, holds all of the graph that it was for."""
    from torch._dynamo.eval_frame import remove_from_cache
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    guards = _guards_of(code)
    remove_from_cache(code)
    _let_go_of(guards)
    _forget_sizes_seen(code)
    FakeTensorMode.cache_clear()
    for method in list(vars(ShapeEnv).values()):
        clear = getattr(method, "cache_clear", None)
        if clear is not None:
            clear()


def _guards_of(code: types.CodeType) -> set[int]:
    """The ids of what holds the guards of its graphs."""
    entries: Any = getattr(getattr(torch._C._dynamo, "eval_frame", None), "_debug_get_cache_entry_list", None)
    return {id(entry.guard_manager) for entry in entries(code)} if entries is not None else set()


def _let_go_of(guards: set[int]) -> None:
    """Dynamo would drop a graph once something that its guards name is gone: with each module, class and function that
    they name it leaves a finalizer, which holds the guards, and most of these are never gone."""
    for finalizer, info in list(getattr(weakref.finalize, "_registry", {}).items()):
        called: Any = info.func
        owner = getattr(called.func, "__self__", None) if type(called) is functools.partial else None
        if id(getattr(owner, "guard_manager", None)) in guards:
            finalizer.detach()


def _forget_sizes_seen(code: types.CodeType) -> None:
    """With which sizes a function was called, by its name, which no other one has."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        from torch._dynamo.pgo import CodeId, get_code_state

        get_code_state().pop(CodeId.make(code), None)
