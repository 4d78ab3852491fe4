"""A compiled block as OneDiff hands it out, for backends that go through Dynamo."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from onediff.infer_compiler.backends.deployable_module import DeployableModule
from torch import nn

from ...checks.graph.breaks import recompile_reason
from ...patching.tracing.forgetting import end_tracing, forget_traced
from ...patching.tracing.private import PRIVATE_TRACING
from ..blocks.batches import LARGEST, form_of
from ..blocks.shared_graph import SharedGraph, Unfinished
from ..blocks.tensors import tensors_of
from .dynamic_sizes import mark_sizes
from .plain_layout import in_plain_layout, is_plain, lists_of, put_back
from .quick_tracing import quick_tracing


class CompiledModule(DeployableModule):
    """A module whose forward is a compiled graph. It shares the parameters of the original and subclasses its class."""

    def __init__(self, torch_module: nn.Module, graph: SharedGraph):
        nn.Module.__init__(self)
        for name in ("_modules", "_parameters", "_buffers"):
            object.__setattr__(self, name, getattr(torch_module, name))
        object.__setattr__(self, "_torch_module", torch_module)
        object.__setattr__(self, "_graph", graph)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        graph: SharedGraph = self._graph
        assert graph.runner is not None
        before = graph.graphs
        start = time.perf_counter()
        inputs: Any = (args, kwargs)
        given = inputs
        copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        tensors = tensors_of(inputs)
        if not all(map(is_plain, tensors)):
            inputs, copies = in_plain_layout(inputs)
            tensors = tensors_of(inputs)
        mark_sizes(tensors, graph.batch.get(form_of(tensors)) if graph.batch else None)
        with PRIVATE_TRACING, nullcontext() if before else quick_tracing():
            lists = lists_of(given, inputs) if inputs is not given else []
            try:
                result = graph.runner(self._torch_module, *inputs)
            except Unfinished:
                self._count(before, start, ran=False)
                raise
        put_back(lists)
        for original, copy in copies:
            original.copy_(copy)
        if graph.graphs != before or graph.unkept:
            self._count(before, start, ran=True)
        return result

    def _count(self, before: int, start: float, ran: bool) -> None:
        """Counts what was compiled in a call that began with so many graphs."""
        graph: SharedGraph = self._graph
        seconds = time.perf_counter() - start
        graph.seconds += seconds
        if before and graph.graphs != before:
            graph.reasons.append(self._why_again())
        self._compiled(seconds, ran)
        _end_tracing(graph)

    def _why_again(self) -> str:
        """Why it was compiled once more, for people."""
        return _told(recompile_reason(self._graph.name))

    def _compiled(self, seconds: float, ran: bool) -> None:
        """What a backend does after compiling for so many seconds, and after the first run of what was compiled."""


def entry_of(graph: SharedGraph) -> Callable:
    """The function that Dynamo compiles. Dynamo keeps graphs, recompile limits and observed sizes by code object, so
    each shared graph has its own."""
    forward, carries = graph.forward, next(filter(None, (graph.batch or {}).values()), None)
    first = -1 if carries is None else carries.index(True)

    def entry(block: nn.Module, args: tuple, kwargs: dict) -> Any:
        if first >= 0:
            _bound_batch((*args, *kwargs.values()), first)
        return forward(block, *args, **kwargs)

    entry.__code__ = entry.__code__.replace(co_name=graph.name)
    weakref.finalize(graph, forget_traced, entry.__code__).atexit = False
    return entry


def _bound_batch(values: tuple, first: int) -> None:
    """Tells torch, while it traces, what it cannot know of an unknown batch: it is not 0, else sizes times the batch
    might be 1, which group_norm asks; nor larger than `LARGEST`, which ComfyUI's attention asks of it.

    Args:
        values: all arguments.
        first: the number, among the tensors, of one that carries the batch.
    """
    number = 0
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.ndim > 1:
                torch._check(value.shape[0] >= 1)
            if number == first:
                torch._check(value.shape[0] <= LARGEST)
            number += 1
        elif not (value is None or isinstance(value, bool | int | float | str)):
            first = -1  # there may be tensors in it


def _end_tracing(graph: SharedGraph) -> None:
    for sizes in graph.sizes:
        end_tracing(sizes)
    graph.sizes = []


def _told(reason: str) -> str:
    """Dynamo's reason for a recompile, for people: "batch 1 needs a graph of its own"."""
    if re.match(r"2 <= .*\.size\(\)\[0\]", reason) or re.search(r"at index 0\. expected 1, ", reason):
        return "batch 1 needs a graph of its own"
    return reason.partition("  #")[0] or "Dynamo gave no reason"
