"""The ``inductor`` backend: torch.compile, registered with OneDiff so that everything goes through one door."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onediff.infer_compiler.backends.deployable_module import DeployableModule
from onediff.infer_compiler.backends.registry import register_backend
from torch import nn

from ..checks.graph.breaks import recompile_reason
from ..processors.cached import cached
from .cache import WARM
from .cache.keys import graph_key
from .cache.warm import Compile
from .dynamic import mark_dynamic_dimensions
from .graphs import SharedGraph
from .tensors import map_tensors, tensors_of


class InductorDeployableModule(DeployableModule):
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
        copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        tensors = tensors_of(inputs)
        if not all(map(is_plain, tensors)):
            inputs, copies = in_plain_layout(inputs)
            tensors = tensors_of(inputs)
        mark_dynamic_dimensions(tensors)
        result = graph.runner(self._torch_module, *inputs)
        for original, copy in copies:
            original.copy_(copy)
        if graph.graphs != before:
            seconds = time.perf_counter() - start
            graph.seconds += seconds
            if before:
                graph.reasons.append(self._why_again())
            keep(graph, seconds)
        return result

    def _why_again(self) -> str:
        return _told(recompile_reason(self._graph.name))


def plain_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor: (2, 3, 4) has (12, 4, 1)."""
    strides, stride = [], 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= max(size, 1)
    return tuple(reversed(strides))


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is laid out as the one that a block is compiled with. Few dimensions may be in any layout."""
    if tensor.ndim < 3:
        return True
    return tensor.is_contiguous() and (1 not in tensor.shape or tensor.stride() == plain_strides(tensor.shape))


def in_plain_layout(inputs: Any) -> tuple[Any, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The inputs with transposed and sliced tensors made contiguous; and those tensors, each with its copy.

    Dynamo compiles for one layout, and often the first block of a model gets a transposed tensor, the others a
    contiguous one. Blocks write into their inputs: afterwards the copies belong back into the originals. A repeated
    tensor stays one, and nothing can be written into it.
    """
    copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    def plain(leaf: torch.Tensor) -> torch.Tensor:
        if is_plain(leaf):
            return leaf
        if leaf.is_contiguous():  # dimensions of size 1 have any stride
            return leaf.as_strided(leaf.shape, plain_strides(leaf.shape))
        repeated = [dim for dim, stride in enumerate(leaf.stride()) if stride == 0 and leaf.shape[dim] > 1]
        if repeated:
            once = leaf
            for dim in repeated:
                once = once.narrow(dim, 0, 1)
            return once.contiguous().expand(leaf.shape)
        copies.append((leaf, leaf.contiguous()))
        return copies[-1][1]

    return map_tensors(plain, inputs), copies


@cached
def _deployable_class(cls: type[nn.Module]) -> type[InductorDeployableModule]:
    return type(f"Inductor{cls.__name__}", (InductorDeployableModule, cls), {})


def entry_of(graph: SharedGraph) -> Callable:
    """The function that Dynamo compiles. Dynamo keeps graphs, recompile limits and observed sizes by code object, so
    each shared graph has its own."""
    forward = graph.forward

    def entry(block: nn.Module, args: tuple, kwargs: dict) -> Any:
        return forward(block, *args, **kwargs)

    entry.__code__ = entry.__code__.replace(co_name=graph.name)
    return entry


def _counting_backend(graph: SharedGraph, config: dict[str, Any]) -> Callable[..., Any]:
    """Inductor, with each compile counted. Dynamo keeps every backend for ever, so this one must not hold the graph."""
    graph = weakref.proxy(graph)

    def compile_graph(gm: torch.fx.GraphModule, example_inputs: list) -> Any:
        from torch._dynamo.utils import counters
        from torch._inductor.compile_fx import compile_fx

        def counted() -> tuple[int, int]:
            return counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"]

        hits, misses = counted()
        with WARM.compiling(graph_key("inductor", gm, example_inputs, config)) as compiling:
            compiled: Any = compile_fx(gm, example_inputs, config_patches=dict(config))
            compiling.hit = counted()[0] > hits and counted()[1] <= misses
        graph.graphs += 1
        graph.cache_hits += compiling.hit
        graph.cache_misses += not compiling.hit
        graph.unkept.append(compiling)
        return compiled if graph.device == "cpu" else first_in_private(compiled)

    return compile_graph


def first_in_private(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled graph whose first run finds Triton's files in our private folder too: Triton tunes kernels then, and
    loads what launches them."""
    ran = False

    def run(*args: Any) -> Any:
        nonlocal ran
        if ran:
            return compiled(*args)
        with WARM.in_private():
            result = compiled(*args)
        ran = True
        return result

    return run


def keep(graph: SharedGraph, seconds: float) -> None:
    """After the first run of what was compiled: it is kept on disk for the next start."""
    compiles: list[Compile] = graph.unkept
    graph.unkept = []
    for compiling in compiles:
        share = seconds / len(compiles)
        if compiling.saved_from is not None:
            graph.seconds_saved += max(0.0, compiling.saved_from - share)
        WARM.keep(compiling, share)


def _told(reason: str) -> str:
    """Dynamo's reason for a recompile, for people: "batch 1 needs a graph of its own"."""
    if re.match(r"2 <= .*\.size\(\)\[0\]", reason) or re.search(r"at index 0\. expected 1, ", reason):
        return "batch 1 needs a graph of its own"
    return reason.partition("  #")[0] or "Dynamo gave no reason"


@register_backend("inductor")
def compile_with_inductor(torch_module: nn.Module, *, options: dict[str, Any] | None = None) -> DeployableModule:
    """Compiles a module into one graph.

    Args:
        options: ``graph``, a SharedGraph that other modules of the class may share (default: its own), and ``config``,
            Inductor settings (torch._inductor.config names).

    Raises (at the first call of the result, not here):
        torch._dynamo.exc.Unsupported: when the module does not fit into one graph.
    """
    options = options or {}
    graph = options.get("graph") or SharedGraph(type(torch_module).forward, type(torch_module).__name__)
    if graph.runner is None:
        backend = _counting_backend(graph, options.get("config") or {})
        graph.runner = torch.compile(entry_of(graph), backend=backend, fullgraph=True)
    return _deployable_class(type(torch_module))(torch_module, graph)
