"""Runs one block: compiled, or uncompiled with the reason noted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...patching.calls import Inputs, options_of, options_position, with_options
from ...patching.foreign import OVERRIDE
from ...patching.user_errors import ordinary
from ...processors.attention_patch import supersedes
from ..blocks.cast_weights import CastWeights
from ..blocks.hindrances import BlockState
from ..blocks.parity import Parity, clone_inputs, compare
from ..blocks.regions import Region
from ..blocks.shared_graph import SharedGraph
from ..blocks.tensors import overlapping, tensors_of
from ..blocks.transformer_options import Reads, Unfit, acting, resolve, watched
from ..measuring.class_gain import ClassGain, time_pairs

if TYPE_CHECKING:
    from .session import Session

log = logging.getLogger(__name__)

#: Combinations of patches and settings that a block is compiled for. A setting may change every step.
MAX_VARIANTS = 4

#: Part of a variant's key: compiled with casts emulated, because it was not right without.
EMULATED = "casts emulated"


class RegionRunner:
    """Stands in for a block's ``forward`` while a session samples.

    ``reason`` says why the block is not compiled at all; ``skipped`` why it ran uncompiled in this sampling although it
    could be. ``parity`` is None until a compiled run was compared. ``casts_weights`` says that its weights are resolved
    before it runs compiled, because the model is only partly loaded. ``gain`` is what compiling gains for its class.
    ``called`` says whether the model calls the block, as far as is known; ``postponed``, that it waits for the next
    sampling.
    """

    def __init__(self, session: Session, region: Region, reason: str | None = None, sites: Sequence[nn.Module] = ()):
        self.session = session
        self.region = region
        self.block: nn.Module = region.module
        self.reason = reason
        self.skipped: str | None = None
        self.parity: Parity | None = None
        self.ran = False
        self.calls = 0  # in this step
        self.called = True
        self.postponed = False
        self.casts_weights = False
        self.graphs: dict[tuple, SharedGraph] = {}
        self.signature = region.signature
        self.gain = ClassGain()
        self._compiled: dict[tuple, Callable] = {}
        self._verified: set[tuple] = set()
        self._forward: Callable = self.block.forward
        self._position: int | None = None
        self._sites = sites
        self._state = BlockState(self.block)
        self._weights = CastWeights(self.block)
        self._class_forwards: tuple[Callable, ...] = ()
        self.bound: tuple = ()  # ``functions()`` of the last step

    @property
    def pending(self) -> bool:
        """Whether the block, with what sits on it in the last step, is still to be compiled and compared."""
        if self.postponed:
            return True
        is_left = self.gain.reason is not None and self.bound == (type(self.block).forward,)
        is_compared = any(key[0] == self.bound for key in self._verified)
        return not (is_compared or is_left or self.uncompiled_because)

    @property
    def uncompiled_because(self) -> str | None:
        """Why the block ran uncompiled, None when it did not."""
        return self.reason or self.skipped

    @property
    def in_dynamic_vram(self) -> bool:
        """Whether ComfyUI's dynamic VRAM looks after the block's weights."""
        return self._weights.in_dynamic_vram

    @property
    def gains_nothing(self) -> bool:
        """Whether the block, as it is now, is not to be compiled because its class gains nothing."""
        return self.gain.reason is not None and self._runs_own_code

    @property
    def left_for_no_gain(self) -> bool:
        """Whether the block ran uncompiled in this sampling for that reason and no other."""
        return self.gain.reason is not None and self.uncompiled_because == self.gain.reason

    def forget_measurements(self) -> None:
        """The next compiled run of each variant is compared and timed anew."""
        self._verified.clear()

    def begin(self) -> None:
        """Starts a sampling."""
        self.ran = False
        self.skipped = None
        self.postponed = False
        self.casts_weights = False
        self._class_forwards = self._state.class_forwards()

    def bind(self) -> tuple[nn.Module, Callable]:
        """Notes the block's current ``forward``, which a patch may have set, and returns what takes its place."""
        self.calls = 0
        self._forward = self.block.forward
        self._position = options_position(type(self.block).forward)
        self.bound = self.functions()
        return self.block, self.run

    def functions(self) -> tuple:
        """What runs in this block now: its forward and those that were set on modules inside it."""
        return (getattr(self._forward, "__func__", self._forward), *self._state.functions())

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The block's forward."""
        session, original = self.session, (args, kwargs)
        session.ran_region = self.ran = self.called = True
        self.calls += 1
        if self.reason is not None or session.bypassing:
            return self._run_uncompiled(original)
        options = options_of(original, self._position)
        reads = session.memory.reads.get(type(self.block))
        if reads is None or session.watching:
            return self._watch(options, original)
        entering = {} if options is None else resolve(self._unsuperseded(options), reads)
        if isinstance(entering, Unfit):
            return self._skip(entering, original)
        reason = self._hindrance()
        if reason is not None:
            return self._skip(reason, original)
        if self.gains_nothing:
            self.skipped = str(self.gain.reason)
            return self._run_left(original)
        inputs = original if options is None else with_options(original, self._position, entering)
        return self._run_variant(entering, inputs, original)

    @property
    def _runs_own_code(self) -> bool:
        """Whether no forward in the block was replaced. What such code gains is not known of the block's class, and it
        may count its calls."""
        return self.functions() == (type(self.block).forward,)

    def _unsuperseded(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options without an attention override that the processors on all of the block's sites take the place
        of."""
        override = options.get(OVERRIDE)
        if override is None or not self._sites:
            return options
        if not all(supersedes(site, self._forward if site is self.block else None, override) for site in self._sites):
            return options
        return {key: value for key, value in options.items() if key != OVERRIDE}

    def _watch(self, options: dict[str, Any] | None, inputs: Inputs) -> Any:
        """Runs the block uncompiled and learns what its own code reads: nothing while another node's code runs in it,
        which may read anything."""
        seen, cls = Reads(), type(self.block)
        if options is None:
            self._learn(cls, seen)
            return self._run_uncompiled(inputs)
        result = self._run_uncompiled(with_options(inputs, self._position, watched(options, seen)))
        foreign = acting(self._unsuperseded(options), seen)
        if foreign is None:
            self._learn(cls, seen)
        elif not self.session.watching:
            self.skipped = str(foreign)
        return result

    def _learn(self, cls: type[nn.Module], seen: Reads) -> None:
        self.session.memory.learn(cls, seen)
        self.session.dirty = True  # the next step runs it compiled

    def _hindrance(self) -> str | None:
        """Why this run cannot be compiled, for what is on the block and on its weights now."""
        reason = self._state.hindrance()
        if reason is None and getattr(self._forward, "__self__", None) is not self.block:
            reason = "another node replaced its forward with something that is not a method of it."
        self.casts_weights = self._weights.pending
        if reason is None and self.casts_weights:
            if self.session.host.resolve_weights is None:
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
                    log.debug("weights of %s are left to ComfyUI: %s", self.region.path, error)
            return self._run_uncompiled(inputs)

    def _skip(self, reason: str, inputs: Inputs) -> Any:
        self.skipped = str(reason)
        return self._run_uncompiled(inputs)

    def _run_variant(self, entering: dict[str, Any], inputs: Inputs, original: Inputs) -> Any:
        """Runs the block compiled for these options and for the processors that sit on it now."""
        functions = self.functions()
        dtype = self._weights.dtype(self.session.dtype) if self.casts_weights else None
        key: tuple = (functions, self._class_forwards, dtype, tuple(sorted(entering.items())))
        if self.graphs.get(key) in self.session.compiling.imprecise:
            key = (*key, EMULATED)
        graph = self.graphs.get(key)
        if graph is None:
            if sum(EMULATED not in known for known in self.graphs) >= MAX_VARIANTS and EMULATED not in key:
                return self._skip(f"it was compiled for {MAX_VARIANTS} combinations of settings already.", original)
            label = type(self.block).__name__
            graph = self.graphs[key] = self.session.compiling.graph_of((self.signature, *key), functions[0], label)
            graph.emulates_casts = EMULATED in key
            if graph in self.session.compiling.imprecise:
                return self._run_variant(entering, inputs, original)
        self.session.variant.graphs.add(graph)
        failed = self.session.failures.graphs.get(graph)
        if failed is not None:
            self.session.give_up_block(self, failed)
            return self._run_uncompiled(original)
        postponed = self.session.compiling.postponed(graph) if key not in self._verified else None
        if postponed is not None:
            self.postponed = self.session.settings.budget > 0
            return self._skip(postponed, original)
        if key not in self._compiled:
            self._compiled[key] = self.session.compile_block(self.block, graph)
        if key not in self._verified:
            return self._verify(key, graph, inputs, original)
        before = graph.graphs
        self.session.running = (self, graph)  # still set when the call raises
        result = self._run_compiled(key, inputs)
        self.session.running = None
        self.session.dirty |= graph.graphs != before
        self.session.ran_compiled = True
        return result

    def _run_compiled(self, key: tuple, inputs: Inputs) -> Any:
        with self._weights_ready():
            return self._compiled[key](*inputs[0], **inputs[1])

    def _weights_ready(self) -> AbstractContextManager[None]:
        """While it is open, nothing is to be done to the block's weights."""
        resolve = self.session.host.resolve_weights
        if resolve is None or not (self.casts_weights or self._weights.flagged):
            return nullcontext()
        return self._weights.resolved(resolve, self.session.device, self._weights.dtype(self.session.dtype))

    def _verify(self, key: tuple, graph: SharedGraph, inputs: Inputs, original: Inputs) -> Any:
        """The first compiled run, on clones of the inputs, beside the uncompiled run whose result is used."""
        if overlapping(inputs):
            before = tensors_of(clone_inputs(inputs))
            uncompiled = self._run_uncompiled(original)
            if not all(map(torch.equal, before, tensors_of(inputs))):
                self.session.give_up_block(self, "it writes into one of two inputs that are views of the same memory.")
                return uncompiled
        self.session.before_verify(self)
        result, failure = self._try_compiled(key, inputs)
        if failure is not None:
            self.session.block_failed(self, graph, failure)
            return self._run_uncompiled(original)
        uncompiled = self._run_uncompiled(original)
        try:
            parity = compare(result, uncompiled)
            del result  # it may be large, and more is to come
        except Exception as error:  # there may be no memory for it
            self.session.block_failed(self, graph, error.with_traceback(None))
            return uncompiled
        if not parity.passed and self.session.compiling.retry(graph, parity):
            return uncompiled  # at its next call, with casts emulated
        self.parity = parity
        self._verified.add(key)
        if not self.parity.passed:
            self.session.give_up_block(self, self.parity.difference)
        elif self.gain.asks(self.signature) and self._runs_own_code and not self._weights.moves(self.session.device):
            self._time(key, inputs)
        return uncompiled

    def _time(self, key: tuple, inputs: Inputs) -> None:
        """Times the block both ways, to learn what its class gains."""
        try:
            with self.session.compiling.timed():
                pairs = time_pairs(
                    lambda own: self._run_compiled(key, own), self._run_left, inputs, self.session.device
                )
        except Exception:  # there may be no memory for it
            self.gain.ask_no_more()
        else:
            self.gain.note(self.signature, pairs)

    def _try_compiled(self, key: tuple, inputs: Inputs) -> tuple[Any, Exception | None]:
        """The result of a compiled run on clones of the inputs, or what it raised."""
        try:
            clones = clone_inputs(inputs)
            with self.session.compiling.timed():
                return self._run_compiled(key, clones), None
        except self.session.host.cancel.stops:
            raise
        except BaseException as error:  # what a processor runs while it is traced may raise anything
            return None, ordinary(error.with_traceback(None))  # the traceback would keep the failed run's memory
