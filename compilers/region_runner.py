"""Runs one block: compiled, or uncompiled with the reason noted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from ..processors.attach import options_position
from .graphs import GRAPHS, SharedGraph
from .options import Unfit, resolve, watched
from .parity import Parity, clone_inputs, compare
from .regions import Region

if TYPE_CHECKING:
    from .session import Session

Inputs = tuple[tuple, dict[str, Any]]


class RegionRunner:
    """Stands in for a block's ``forward`` while a session samples.

    ``reason`` says why the block is not compiled at all; ``skipped`` why it ran uncompiled in this sampling although it
    could be. ``parity`` is None until the first compiled run was compared.
    """

    def __init__(self, session: Session, region: Region, reason: str | None = None):
        self.session = session
        self.region = region
        self.block: nn.Module = region.module
        self.reason = reason
        self.skipped: str | None = None
        self.parity: Parity | None = None
        self.graphs: dict[tuple, SharedGraph] = {}
        self._signature = region.signature
        self._compiled: dict[tuple, Callable] = {}
        self._verified: set[tuple] = set()
        self._forward: Callable = self.block.forward
        self._position: int | None = None

    def bind(self) -> tuple[nn.Module, Callable]:
        """Notes the block's current ``forward``, which a patch may have set, and returns what takes its place."""
        self._forward = self.block.forward
        self._position = options_position(type(self.block).forward)
        return self.block, self.run

    def functions(self) -> tuple:
        """What runs in this block now: its forward and those of patched sites inside it."""
        inner = (module.__dict__["forward"] for module in self.session.patched_below(self.region))
        return tuple(getattr(forward, "__func__", forward) for forward in (self._forward, *inner))

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The block's forward."""
        session = self.session
        session.ran_region = True
        if self.reason is not None:
            return self._forward(*args, **kwargs)
        options = self._options((args, kwargs))
        seen = type(self.block) in session.memory.reads
        reads = session.memory.reads_of(type(self.block))
        if session.watching or not seen:
            session.dirty = True
            inputs = (args, kwargs) if options is None else self._replaced((args, kwargs), watched(options, reads))
            return self._forward(*inputs[0], **inputs[1])
        entering = {} if options is None else resolve(options, reads)
        if isinstance(entering, Unfit):
            return self._skip(entering, (args, kwargs))
        inputs = (args, kwargs) if options is None else self._replaced((args, kwargs), entering)
        return self._run_variant(entering, inputs, (args, kwargs))

    def _options(self, inputs: Inputs) -> dict[str, Any] | None:
        args, kwargs = inputs
        if self._position is not None and len(args) > self._position:
            return args[self._position]
        return kwargs.get("transformer_options")

    def _replaced(self, inputs: Inputs, options: dict[str, Any]) -> Inputs:
        args, kwargs = inputs
        if self._position is not None and len(args) > self._position:
            return (*args[: self._position], options, *args[self._position + 1 :]), kwargs
        return args, {**kwargs, "transformer_options": options}

    def _skip(self, reason: str, inputs: Inputs) -> Any:
        self.skipped = reason
        return self._forward(*inputs[0], **inputs[1])

    def _run_variant(self, entering: dict[str, Any], inputs: Inputs, original: Inputs) -> Any:
        """Runs the block compiled for these options and for the processors that sit on it now."""
        functions = self.functions()
        if not hasattr(self._forward, "__func__"):
            return self._skip("another node replaced its forward with something that is not a method", original)
        key = (self._signature, functions, tuple(sorted(entering.items())))
        graph = self.graphs.get(key)
        if graph is None:
            label = type(self.block).__name__
            graph = self.graphs[key] = self.session.graph_of(key, lambda full: GRAPHS.get(full, functions[0], label))
        if graph.failure is not None:
            self.reason = graph.failure
            return self._forward(*original[0], **original[1])
        if key not in self._compiled:
            self._compiled[key] = self.session.compile_block(self.block, graph)
        if key not in self._verified:
            return self._verify(key, graph, inputs, original)
        before = graph.graphs
        result = self._compiled[key](*inputs[0], **inputs[1])
        self.session.dirty |= graph.graphs != before
        self.session.ran_compiled = True
        return result

    def _verify(self, key: tuple, graph: SharedGraph, inputs: Inputs, original: Inputs) -> Any:
        """The first compiled run, on clones of the inputs, beside the uncompiled run whose result is used."""
        self.session.before_verify(self)
        args, kwargs = clone_inputs(inputs)
        try:
            result = self._compiled[key](*args, **kwargs)
        except Exception as error:
            self.session.region_failed(self, graph, error)
            return self._forward(*original[0], **original[1])
        uncompiled = self._forward(*original[0], **original[1])
        parity = compare(result, uncompiled)
        self._verified.add(key)
        self.parity = parity
        if not parity.passed:
            self.reason = (
                f"its compiled result differs from the uncompiled one by {parity.relative:.1e} relative;"
                f" {parity.tolerance:.0e} is accepted"
            )
        self.session.verified(self, parity)
        return uncompiled
