"""Runs one block: compiled, or uncompiled with the reason noted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import nn

from ...patching.calls import Inputs, options_of, options_position, with_options
from ...patching.foreign import OVERRIDE
from ...patching.user_errors import ordinary
from ...processors.attention_patch import supersedes
from ..blocks.cast_weights import CastWeights
from ..blocks.hindrances import BlockState
from ..blocks.parity import clone_inputs, compare
from ..blocks.shared_graph import SharedGraph
from ..blocks.tensors import overlapping, tensors_of
from ..blocks.transformer_options import Reads, Unfit, acting, resolve, watched
from ..measuring.block import Block
from ..measuring.class_gain import time_pairs
from ..measuring.model_memory import ModelMemory
from .compiler import Compiler
from .failures import Failures
from .listener import Listener
from .settings import Host
from .step import Step

log = logging.getLogger(__name__)

#: Combinations of patches and settings that a block is compiled for. A setting may change every step.
MAX_VARIANTS = 4

#: Part of a variant's key: compiled with casts emulated, because it was not right without.
EMULATED = "casts emulated"


class BlockRunner:
    """Stands in for a block's ``forward`` while a session samples.

    Args:
        compiler, failures, memory: what the block is compiled with, what failed, what its model reads.
        host: its part in weights that are cast, moved or patched while a block runs, and in Cancel.
        device, dtype: where, and in what, the model computes.
    """

    def __init__(
        self,
        block: Block,
        compiler: Compiler,
        failures: Failures,
        memory: ModelMemory,
        listener: Listener,
        host: Host,
        device: torch.device,
        dtype: torch.dtype,
    ):
        self.block = block
        self._compiler, self._failures, self._memory = compiler, failures, memory
        self._resolve_weights, self._stops = host.resolve_weights, host.cancel.stops
        self._listener, self._device, self._dtype = listener, device, dtype
        self._compiled: dict[tuple, Callable] = {}
        self._verified: set[tuple] = set()
        self._step: Step | None = None
        self._forward: Callable = block.module.forward
        self._position: int | None = None
        self._state = BlockState(block.module)
        self._weights = CastWeights(block.module)
        self._class_forwards: tuple[Callable, ...] = ()

    def forget_measurements(self) -> None:
        """The next compiled run of each variant is compared and timed anew."""
        self._verified.clear()
        self.block.compared.clear()

    def begin_sampling(self) -> None:
        self.block.begin_sampling()
        self.block.in_dynamic_vram = self._weights.in_dynamic_vram
        self._class_forwards = self._state.class_forwards()

    def look(self) -> tuple:
        """Notes the block's current ``forward``, which a patch may have set. Returns what runs in the block now."""
        block = self.block
        block.calls = 0
        self._forward = block.module.forward
        self._position = options_position(type(block.module).forward)
        block.functions = self._functions()
        return block.functions

    def bind(self, step: Step) -> tuple[nn.Module, Callable]:
        """The block's module, and what takes the place of its forward in this step."""
        self._step = step
        return self.block.module, self.run

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The block's forward."""
        block, step, original = self.block, self._step, (args, kwargs)
        assert step is not None
        step.ran_block = block.ran = block.called = True
        block.calls += 1
        if block.reason is not None or step.bypassing:
            return self._run_uncompiled(original)
        options = options_of(original, self._position)
        reads = self._memory.reads.get(type(block.module))
        if reads is None or step.watching:
            return self._watch(step, options, original)
        entering = {} if options is None else resolve(self._unsuperseded(options), reads)
        if isinstance(entering, Unfit):
            return self._skip(entering, original)
        reason = self._hindrance()
        if reason is not None:
            return self._skip(reason, original)
        if block.gain.reason is not None and block.is_own(self._functions()):
            block.skipped = str(block.gain.reason)
            return self._run_left(original)
        inputs = original if options is None else with_options(original, self._position, entering)
        return self._run_variant(step, entering, inputs, original)

    def _functions(self) -> tuple:
        """What runs in this block now: its forward and those that were set on modules inside it."""
        return (getattr(self._forward, "__func__", self._forward), *self._state.functions())

    def _unsuperseded(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options without an attention override that the processors on all of the block's sites take the place
        of."""
        override, sites = options.get(OVERRIDE), self.block.sites
        if override is None or not sites:
            return options
        own = self.block.module
        if not all(supersedes(site, self._forward if site is own else None, override) for site in sites):
            return options
        return {key: value for key, value in options.items() if key != OVERRIDE}

    def _watch(self, step: Step, options: dict[str, Any] | None, inputs: Inputs) -> Any:
        """Runs the block uncompiled and learns what its own code reads: nothing while another node's code runs in it,
        which may read anything."""
        seen, cls = Reads(), type(self.block.module)
        foreign = None
        if options is None:
            result = self._run_uncompiled(inputs)
        else:
            result = self._run_uncompiled(with_options(inputs, self._position, watched(options, seen)))
            foreign = acting(self._unsuperseded(options), seen)
        if foreign is None:
            self._memory.learn(cls, seen)
            step.dirty = True  # the next step runs it compiled
        elif not step.watching:
            self.block.skipped = str(foreign)
        return result

    def _hindrance(self) -> str | None:
        """Why this run cannot be compiled, for what is on the block and on its weights now."""
        reason = self._state.hindrance(self._forward)
        self.block.casts_weights = self._weights.pending
        if reason is None and self.block.casts_weights:
            if self._resolve_weights is None:
                return "its weights are patched while it runs, because the model is only partly loaded."
            reason = self._weights.hindrance()
        return reason

    def _run_uncompiled(self, inputs: Inputs) -> Any:
        return self._forward(*inputs[0], **inputs[1])

    def _run_left(self, inputs: Inputs) -> Any:
        """Uncompiled, for no gain. In dynamic VRAM with all weights looked up at once, as for compiled code: ComfyUI's
        way to each of them takes Python longer than a fast GPU takes for the layer."""
        with ExitStack() as ready:
            if self._weights.in_dynamic_vram and not self._weights.patched:
                try:
                    ready.enter_context(self._weights_ready())
                except Exception as error:  # no memory for all at once, perhaps: ComfyUI brings one after the other
                    log.debug("weights of %s are left to ComfyUI: %s", self.block.path, error)
            return self._run_uncompiled(inputs)

    def _skip(self, reason: str, inputs: Inputs) -> Any:
        self.block.skipped = str(reason)
        return self._run_uncompiled(inputs)

    def _run_variant(self, step: Step, entering: dict[str, Any], inputs: Inputs, original: Inputs) -> Any:
        """Runs the block compiled for these options and for the processors that sit on it now."""
        key, graph = self._variant(entering)
        if graph is None:
            return self._skip(f"it was compiled for {MAX_VARIANTS} combinations of settings already.", original)
        step.variant.graphs.add(graph)
        failed = self._failures.graphs.get(graph)
        if failed is not None:
            self._listener.gave_up(self.block, failed)
            return self._run_uncompiled(original)
        if key not in self._verified:
            postponed = self._compiler.postponed(graph)
            if postponed is not None:
                self.block.postponed = self._compiler.budget > 0
                return self._skip(postponed, original)
            return self._verify(key, graph, inputs, original)
        before = graph.graphs
        step.running = (self.block, graph)  # still set when the call raises
        result = self._run_compiled(key, graph, inputs)
        step.running = None
        step.dirty |= graph.graphs != before
        step.ran_compiled = True
        return result

    def _variant(self, entering: dict[str, Any]) -> tuple[tuple, SharedGraph | None]:
        """The key of the variant for these options, and its graph; no graph where there are too many variants."""
        functions, graphs, imprecise = self._functions(), self.block.graphs, self._compiler.imprecise
        dtype = self._weights.dtype(self._dtype) if self.block.casts_weights else None
        key: tuple = (functions, self._class_forwards, dtype, tuple(sorted(entering.items())))
        if key not in graphs:
            if sum(EMULATED not in known for known in graphs) >= MAX_VARIANTS:
                return key, None
            graphs[key] = self._graph_of(key, functions[0])
        if graphs[key] in imprecise:
            key = (*key, EMULATED)
            if key not in graphs:
                graphs[key] = self._graph_of(key, functions[0])
        return key, graphs[key]

    def _graph_of(self, key: tuple, forward: Callable) -> SharedGraph:
        graph = self._compiler.graph_of((self.block.signature, *key), forward, self.block.kind)
        graph.emulates_casts = EMULATED in key
        return graph

    def _run_compiled(self, key: tuple, graph: SharedGraph, inputs: Inputs) -> Any:
        if key not in self._compiled:
            self._compiled[key] = self._compiler.compile(self.block.module, graph)
        with self._weights_ready():
            return self._compiled[key](*inputs[0], **inputs[1])

    def _weights_ready(self) -> AbstractContextManager[None]:
        """While it is open, nothing is to be done to the block's weights."""
        resolve_weights = self._resolve_weights
        if resolve_weights is None or not (self.block.casts_weights or self._weights.flagged):
            return nullcontext()
        return self._weights.resolved(resolve_weights, self._device, self._weights.dtype(self._dtype))

    def _verify(self, key: tuple, graph: SharedGraph, inputs: Inputs, original: Inputs) -> Any:
        """The first compiled run, on clones of the inputs, beside the uncompiled run whose result is used."""
        if overlapping(inputs):
            before = tensors_of(clone_inputs(inputs))
            uncompiled = self._run_uncompiled(original)
            if not all(map(torch.equal, before, tensors_of(inputs))):
                self._listener.gave_up(
                    self.block, "it writes into one of two inputs that are views of the same memory."
                )
                return uncompiled
        self._listener.compiling(self.block)
        result, failure = self._try_compiled(key, graph, inputs)
        if failure is not None:
            self._listener.failed(self.block, graph, failure)
            return self._run_uncompiled(original)
        uncompiled = self._run_uncompiled(original)
        try:
            parity = compare(result, uncompiled)
            del result  # it may be large, and more is to come
        except Exception as error:  # there may be no memory for it
            self._listener.failed(self.block, graph, error.with_traceback(None))
            return uncompiled
        if not parity.passed and self._compiler.retry(graph, parity):
            return uncompiled  # at its next call, with casts emulated
        self.block.parity = parity
        self._verified.add(key)
        self.block.compared.add(key[0])
        if not parity.passed:
            self._listener.gave_up(self.block, parity.difference)
        elif self._is_timed():
            self._time(key, graph, inputs)
        return uncompiled

    def _is_timed(self) -> bool:
        """Whether it is to be learned from this block what its class gains."""
        asked = self.block.gain.asks(self.block.signature) and self.block.is_own(self._functions())
        return asked and not self._weights.moves(self._device)

    def _time(self, key: tuple, graph: SharedGraph, inputs: Inputs) -> None:
        """Times the block both ways."""
        try:
            with self._compiler.timed():
                pairs = time_pairs(
                    lambda own: self._run_compiled(key, graph, own), self._run_left, inputs, self._device
                )
        except Exception:  # there may be no memory for it
            self.block.gain.give_up_timing()
        else:
            self.block.gain.note(self.block.signature, pairs)

    def _try_compiled(self, key: tuple, graph: SharedGraph, inputs: Inputs) -> tuple[Any, Exception | None]:
        """The result of a compiled run on clones of the inputs, or what it raised."""
        try:
            clones = clone_inputs(inputs)
            with self._compiler.timed():
                return self._run_compiled(key, graph, clones), None
        except self._stops:
            raise
        except BaseException as error:  # what a processor runs while it is traced may raise anything
            return None, ordinary(error.with_traceback(None))  # the traceback would keep the failed run's memory
