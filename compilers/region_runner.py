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
        self._forward: Callable = self.block.forward
        self._position: int | None = None

    def bind(self) -> tuple[nn.Module, Callable]:
        """Notes the block's current ``forward``, which a patch may have set, and returns what takes its place."""
        self._forward = self.block.forward
        function = getattr(self._forward, "__func__", None)
        self._position = options_position(type(self.block).forward) if function is not None else None
        return self.block, self.run

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The block's forward."""
        session = self.session
        session.ran_region = True
        if self.reason is not None:
            return self._forward(*args, **kwargs)
        if session.watching:
            return self._watch(args, kwargs)
        if not session.active:
            return self._forward(*args, **kwargs)
        options = self._options(args, kwargs)
        entering = {} if options is None else resolve(options, session.reads(type(self.block)))
        if isinstance(entering, Unfit):
            self._skip(entering)
            return self._forward(*args, **kwargs)
        compiled = self._variant(entering)
        if compiled is None:
            return self._forward(*args, **kwargs)
        inputs = self._with_options(args, kwargs, entering) if options is not None else (args, kwargs)
        if self.parity is None:
            return self._verify(compiled, inputs, args, kwargs)
        return self._run_compiled(compiled, inputs)

    def _options(self, args: tuple, kwargs: dict) -> dict[str, Any] | None:
        if self._position is not None and len(args) > self._position:
            return args[self._position]
        return kwargs.get("transformer_options")

    def _with_options(self, args: tuple, kwargs: dict, options: dict[str, Any]) -> tuple[tuple, dict]:
        if self._position is not None and len(args) > self._position:
            return (*args[: self._position], options, *args[self._position + 1 :]), kwargs
        return args, {**kwargs, "transformer_options": options}

    def _watch(self, args: tuple, kwargs: dict) -> Any:
        options = self._options(args, kwargs)
        if options is None:
            return self._forward(*args, **kwargs)
        reads = self.session.reads(type(self.block))
        args, kwargs = self._with_options(args, kwargs, watched(options, reads))
        return self._forward(*args, **kwargs)

    def _skip(self, reason: str) -> None:
        self.session.dirty = True
        if self.skipped != reason:
            self.skipped = reason
            self.session.changed()

    def _variant(self, entering: dict[str, Any]) -> Callable | None:
        """The compiled block for these options and for the processors that sit on it now; None when there is none."""
        function = getattr(self._forward, "__func__", None)
        if function is None:
            self._skip("another node replaced its forward with something that is not a method")
            return None
        inner = tuple(m.__dict__["forward"].__func__ for m in self.session.patched_below(self.region))
        key = (self.session.backend_key, self._signature, function, inner, tuple(sorted(entering.items())))
        graph = self.graphs.get(key)
        if graph is None:
            graph = self.graphs[key] = GRAPHS.get(key, function, type(self.block).__name__)
        if graph.failure is not None:
            self.reason = graph.failure
            self.session.changed()
            return None
        if key not in self._compiled:
            self._compiled[key] = self.session.compile_block(self, graph)
            self.parity = None
        return self._compiled[key]

    def _verify(self, compiled: Callable, inputs: tuple[tuple, dict], args: tuple, kwargs: dict) -> Any:
        """The first compiled run, on clones of the inputs, beside the uncompiled run whose result is used."""
        self.session.dirty = True
        self.session.before_verify(self)
        clones = clone_inputs(inputs)
        try:
            result = compiled(*clones[0], **clones[1])
        except Exception as error:
            self.session.region_failed(self, error)
            return self._forward(*args, **kwargs)
        uncompiled = self._forward(*args, **kwargs)
        parity = compare(result, uncompiled)
        if parity.passed:
            self.parity = parity
        else:
            self.reason = (
                f"its compiled result differs from the uncompiled one: {parity.relative:.1e} relative,"
                f" {parity.tolerance:.0e} accepted"
            )
        self.session.verified(self, parity)
        return uncompiled

    def _run_compiled(self, compiled: Callable, inputs: tuple[tuple, dict]) -> Any:
        graphs = sum(graph.graphs for graph in self.graphs.values())
        result = compiled(*inputs[0], **inputs[1])
        if sum(graph.graphs for graph in self.graphs.values()) != graphs:
            self.session.dirty = True
            self.session.changed()
        self.session.ran_compiled = True
        return result


