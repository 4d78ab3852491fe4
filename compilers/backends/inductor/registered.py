"""The ``inductor`` backend: torch.compile, registered with OneDiff so that everything goes through one door."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from onediff.infer_compiler.backends.deployable_module import DeployableModule
from onediff.infer_compiler.backends.registry import register_backend
from torch import nn

from ....memo import cached
from ....patching.tracing.forgetting import sizes_in_tracing
from ....patching.tracing.private import PRIVATE_TRACING
from ....patching.user_code import Cancel
from ...blocks.shared_graph import SharedGraph
from ...compile_cache import WARM
from ...compile_cache.keys import graph_key
from ...compile_cache.one_compile import Compile
from ..deployable import CompiledModule, entry_of
from ..errors_in_words import is_out_of_memory
from .beside import NotBuilt, built_beside, once_built
from .cancelling import ending_processes
from .effort import ONE_FILE
from .strides import quick_strides

log = logging.getLogger(__name__)


class InductorModule(CompiledModule):
    """A module compiled by Inductor, kept on disk for the next start."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().forward(*args, **kwargs)
        except NotBuilt as error:
            cause, graph = error.__cause__, self._graph
            assert isinstance(cause, Exception)
            if is_out_of_memory(cause) or not self._config.get(ONE_FILE):
                raise cause from None
            log.debug("not compiled in one file: %s", cause)
        graph.forget_compile()
        object.__setattr__(self, "_config", {**self._config, ONE_FILE: False})
        graph.runner = _runner_of(graph, self._config)
        return super().forward(*args, **kwargs)

    def _compiled(self, seconds: float, ran: bool) -> None:
        graph: SharedGraph = self._graph
        compiles: list[Compile] = graph.unkept
        for compiling in compiles:
            compiling.seconds += seconds / len(compiles)
        if not ran:
            return
        graph.unkept = []
        for compiling in compiles:
            if compiling.saved_from is not None:
                graph.seconds_saved += max(0.0, compiling.saved_from - compiling.seconds)
            WARM.keep(compiling, compiling.seconds)


@cached
def _module_class(cls: type[nn.Module]) -> type[InductorModule]:
    return type(f"Inductor{cls.__name__}", (InductorModule, cls), {})


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
            assert compiling.workspace is not None
            folder = compiling.workspace.folder
            with (
                ending_processes(graph.cancel, folder) as cancel,
                built_beside(graph) as begun,
                quick_strides(graph.device),
            ):
                compiled: Any = in_one_file_or_many(partial(compile_fx, gm, example_inputs), config, cancel)
            compiling.hit = counted()[0] > hits and counted()[1] <= misses
        graph.graphs += 1
        graph.cache_hits += compiling.hit
        graph.cache_misses += not compiling.hit
        graph.unkept.append(compiling)
        graph.sizes.append(sizes_in_tracing())
        if begun:
            graph.library, compiling.beside = begun[-1], True
            return once_built(compiled, graph, begun[-1])
        return compiled if graph.device == "cpu" else first_in_private(compiled)

    return compile_graph


def in_one_file_or_many(compile_fx: Callable[..., Any], config: dict[str, Any], cancel: Cancel) -> Any:
    """Compiles with these settings. Where that fails in one file, as Inductor does not know all in C++, in many."""
    try:
        return compile_fx(config_patches=dict(config))
    except Exception as error:
        cancel.check()
        if not config.get(ONE_FILE) or is_out_of_memory(error):
            raise
        log.debug("not compiled in one file: %s", error)
    return compile_fx(config_patches={**config, ONE_FILE: False})


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
    config = options.get("config") or {}
    if graph.runner is None:
        graph.runner = _runner_of(graph, config)
    module = _module_class(type(torch_module))(torch_module, graph)
    object.__setattr__(module, "_config", config)
    return module


def _runner_of(graph: SharedGraph, config: dict[str, Any]) -> Callable[..., Any]:
    with PRIVATE_TRACING:
        return torch.compile(entry_of(graph), backend=_counting_backend(graph, config), fullgraph=True)
