"""This pack's OneFlow backend as OneDiff finds it. Importing this needs OneFlow."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from onediff.infer_compiler.backends.deployable_module import DeployableModule
from onediff.infer_compiler.backends.registry import register_backend
from torch import fx, nn
from torch._dynamo.backends.common import aot_autograd

from ....memo import cached
from ....patching.tracing.private import PRIVATE_TRACING
from ...blocks.shared_graph import SharedGraph
from ..deployable import CompiledModule, entry_of
from .decompositions import decompositions
from .lowering import Lowered


class OneFlowModule(CompiledModule):
    """A module whose forward is captured by Dynamo and executed by OneFlow."""

    def _why_again(self) -> str:
        if self._graph.size:
            return f"OneFlow's graphs are of one size: {self._graph.size} needs one of its own"
        return super()._why_again()


@cached
def _module_class(cls: type[nn.Module]) -> type[OneFlowModule]:
    return type(f"OneFlow{cls.__name__}", (OneFlowModule, cls), {})


def _oneflow_backend(graph: SharedGraph) -> Callable[..., Any]:
    """A backend for Dynamo that lowers to OneFlow and counts. Dynamo keeps it for ever, so it must not hold the
    graph."""
    graph = weakref.proxy(graph)

    def on_build(size: str) -> None:
        graph.graphs += 1
        graph.size = size

    def on_run() -> None:
        graph.runs += 1

    def lower(module: fx.GraphModule, _example_inputs: list[Any]) -> Callable[[list[Any]], list[Any]]:
        lowered = Lowered(module, on_build, on_run)

        def run(args: list[Any]) -> list[Any]:
            values = tuple(args)
            args.clear()
            return lowered(*values)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    return aot_autograd(
        fw_compiler=lower,
        inference_compiler=lower,
        decompositions=decompositions(),
        keep_inference_input_mutations=False,
    )


@register_backend("oneflow")
def compile_with_oneflow(torch_module: nn.Module, *, options: dict[str, Any] | None = None) -> DeployableModule:
    """Compiles a module into ``oneflow.nn.Graph``s that use the module's own weights.

    Args:
        options: ``graph``, a SharedGraph that other modules of the class may share (default: its own).

    Raises (at the first call of the result, not here):
        MissingOperator: when OneFlow cannot do an operator of it.
        torch._dynamo.exc.Unsupported: when the module does not fit into one graph.
    """
    graph = (options or {}).get("graph") or SharedGraph(type(torch_module).forward, type(torch_module).__name__)
    if graph.runner is None:
        with PRIVATE_TRACING:
            graph.runner = torch.compile(entry_of(graph), backend=_oneflow_backend(graph), fullgraph=True)
    return _module_class(type(torch_module))(torch_module, graph)
