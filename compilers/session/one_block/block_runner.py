"""Runs one block: compiled, or uncompiled with the reason noted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch

from ....memo import Same
from ....patching.calls import Inputs, options_of, options_position, with_options
from ....patching.foreign import OVERRIDE
from ....patching.user_errors import ordinary
from ....processors.as_operator import at_places
from ....processors.built_in.sdpa import SDPAProcessor
from ....processors.called_sites import Noted, note_again, noting
from ....processors.overriding import is_operator, kernel_override, readers_of
from ...backends.protocol import Cancelled
from ...blocks.cast_weights import CastWeights
from ...blocks.hindrances import BlockState
from ...blocks.operators.acting import NOTHING, Acting
from ...blocks.operators.block_call import BlockCall, OtherForm
from ...blocks.shared_graph import SharedGraph
from ...blocks.transformer_options import Reads, Unfit, carries_foreign, plain
from ...measuring.block import Block
from ...measuring.model_memory import ModelMemory
from ..compiler import Compiler
from ..failures import Failures
from ..settings import Host
from ..step import Step
from .call import Call
from .first_runs import FirstRuns
from .foreign_code import ForeignCode
from .gain_timing import weighed
from .in_place import InPlace
from .listener import Listener
from .variants import MAX_VARIANTS, Variants

log = logging.getLogger(__name__)

#: One function, so that compiled graphs are shared.
SDPA = kernel_override(SDPAProcessor().eval())


class BlockRunner(InPlace):
    """Runs a block while a session samples.

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
        super().__init__(block)
        self._compiler, self._failures, self._memory = compiler, failures, memory
        self._resolve_weights, self._stops = host.resolve_weights, host.cancel.stops
        self._computes_with_sdpa, self._opaque_attention = host.computes_with_sdpa, host.opaque_attention
        self._listener, self.device, self._dtype = listener, device, dtype
        self._variants = Variants(block, compiler)
        self._foreign = ForeignCode(block, device)
        self._first_runs = FirstRuns(self, compiler, listener, self._foreign, self._stops)
        self._inside: tuple[Callable, ...] = ()
        self._kind_of: tuple[tuple, tuple[type | Same, ...]] = ((), (type(block.module),))
        self._position: int | None = None
        self._state = BlockState(block.module)
        self._weights = CastWeights(block.module)
        self._as_operator = False
        self._noted: Noted = {}
        self._noted_under: dict[tuple, Noted] = {}

    def forget_measurements(self) -> None:
        """The next compiled run of each variant is compared and timed anew."""
        self._first_runs.forget()

    def begin_sampling(self) -> None:
        self.block.begin_sampling()
        self.block.in_dynamic_vram = self._weights.in_dynamic_vram

    def look(self) -> tuple:
        """Notes the block's current ``forward``, which a patch may have set. Returns what runs in the block now."""
        block = self.block
        block.calls = 0
        self.find()
        self._position = self._foreign.position = options_position(type(block.module).forward)
        self._inside = self._state.look()
        block.functions = self._functions()
        self._as_operator = any(map(is_operator, block.functions))
        return block.functions

    def run_in(self, step: Step, original: Inputs) -> Any:
        block = self.block
        step.ran_block = block.ran = block.called = True
        block.calls += 1
        if block.reason is not None or step.bypassing:
            return self.run_uncompiled(original)
        if self._state.is_other:
            self._state, self._weights = BlockState(block.module), CastWeights(block.module)
        self._inside = self._state.look()
        functions, options = self._functions(), options_of(original, self._position)
        carries = options is not None and carries_foreign(options)
        step.ran_foreign = step.ran_foreign or carries
        kind = self._kind(functions)
        reads = self._memory.reads.get(kind)
        if options is not None and self._compiler.holds_operators:
            given = self._foreign.with_hosts(self._opaque_attention(), self._forward, options)
            if given is not options:
                options, original, carries = given, with_options(original, self._position, given), True
        if reads is None or step.watching:
            return self._watch(step, kind, options, original)
        foreign: Acting | Unfit = NOTHING
        if options is not None and carries:
            foreign = self._foreign.acting(self._forward, options, reads, self._compiler.holds_operators)
        entering = foreign if isinstance(foreign, Unfit) else plain(options or {}, reads)
        if isinstance(foreign, Unfit) or isinstance(entering, Unfit):
            return self._skip(str(entering), original)
        reason = self._hindrance()
        if reason is not None:
            return self._skip(reason, original)
        if block.gain.reason is not None and block.functions == functions:
            block.skipped, block.postponed = None, False
            return self.run_left(original)
        if options is None:
            return self._run_variant(step, functions, entering, Call(original, original, foreign, None))
        is_new = self._compiler.holds_operators and not self._memory.watched(kind, foreign.roles)
        if is_new or not self._foreign.seen(foreign):
            return self._watch(step, kind, options, original)
        if self._takes_sdpa(functions, options, reads):
            entering = {**entering, OVERRIDE: SDPA}
        inputs = self._foreign.standing_in(original, options, entering, foreign)
        under = self._foreign.begin(original, options, foreign) if foreign.functions else None
        step.ran_foreign = step.ran_foreign or under is not None
        return self._run_variant(step, functions, entering, Call(inputs, original, foreign, under))

    def _takes_sdpa(self, functions: tuple, options: dict[str, Any], reads: Reads) -> bool:
        """Whether this pack's ``sdpa`` computes attention in the graph, in the place of ComfyUI's function around the
        same one of PyTorch's: that compares the batch with a limit, so that no graph could hold every batch."""
        return (
            OVERRIDE in reads.keys
            and options.get(OVERRIDE) is None
            and self._computes_with_sdpa()
            and self._compiler.takes_any_batch
            and self.block.is_own(functions)
        )

    def _kind(self, functions: tuple) -> tuple[type | Same, ...]:
        """What decides what is read from ``transformer_options`` here: the block's class, and those of processors in
        it, or on it, that are handed them."""
        if functions != self._kind_of[0]:
            self._kind_of = functions, (type(self.block.module), *readers_of(functions))
        return self._kind_of[1]

    def _functions(self) -> tuple:
        """What runs in this block now: its forward and those that were set on modules inside it."""
        return (getattr(self._forward, "__func__", self._forward), *self._inside)

    def _watch(self, step: Step, kind: tuple, options: dict[str, Any] | None, inputs: Inputs) -> Any:
        """Runs the block uncompiled and learns what its own code reads, and what foreign code in it gives. Where no
        graph can hold that, nothing is learned: it may read anything."""
        if options is None:
            foreign: Acting | Unfit = NOTHING
            result, seen = self.run_uncompiled(inputs), Reads()
        else:
            can_hold, known = self._compiler.holds_operators, self._memory.reads.get(kind)
            result, seen, foreign = self._foreign.watched(
                self.run_uncompiled, inputs, options, self._forward, can_hold, known
            )
        if isinstance(foreign, Acting):
            self._memory.learn(kind, seen, foreign.roles)
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

    def run_uncompiled(self, inputs: Inputs) -> Any:
        with noting() as self._noted, weighed(self.block):
            return self._forward(*inputs[0], **inputs[1])

    def run_left(self, inputs: Inputs) -> Any:
        """Uncompiled, for no gain. In dynamic VRAM with all weights looked up at once, as for compiled code: ComfyUI's
        way to each of them takes Python longer than a fast GPU takes for the layer."""
        with ExitStack() as ready:
            if self._weights.in_dynamic_vram and not self._weights.patched:
                try:
                    ready.enter_context(self._weights_ready())
                except Exception as error:  # no memory for all at once, perhaps: ComfyUI brings one after the other
                    log.debug("weights of %s are left to ComfyUI: %s", self.block.path, error)
            return self.run_uncompiled(inputs)

    def _skip(self, reason: str, inputs: Inputs) -> Any:
        self.block.skipped = str(reason)
        return self.run_uncompiled(inputs)

    def _run_variant(self, step: Step, functions: tuple, entering: dict[str, Any], call: Call) -> Any:
        """Runs the block compiled for these options and for the processors that sit on it now."""
        dtype = self._weights.dtype(self._dtype) if self.block.casts_weights else None
        operators = self._foreign.operators(call.foreign)
        methods = self._state.methods()
        key, graph = self._variants.find(functions, methods, dtype, entering, operators, call.inputs)
        if graph is None:
            return self._skip(f"it was compiled for {MAX_VARIANTS} combinations of settings already.", call.original)
        step.variant.graphs.add(graph)
        failed = self._failures.graphs.get(graph)
        if failed is not None:
            self._listener.gave_up(self.block, failed)
            return self.run_uncompiled(call.original)
        if not self._first_runs.done(step, key, call):
            postponed = self._compiler.postponed(graph)
            if postponed is not None:
                self.block.postponed = self._compiler.budget > 0
                return self._skip(postponed, call.original)
            result = self._first_runs.run(step, key, graph, call)
            self._noted_under[key] = self._noted
            return result
        before = graph.graphs
        if step.ran_foreign:
            result = self._run_once(step, key, graph, call, call.under)
        else:
            step.running = (self.block, graph)  # still set when the call raises
            result = self.run_compiled(key, graph, call.inputs)
            step.running = None
        if graph.graphs != before:  # what is new is not compared yet
            step.dirty = True
            self._first_runs.forget()
        step.ran_compiled = True
        note_again(self._noted_under.get(key, self._noted))
        return result

    def _run_once(self, step: Step, key: tuple, graph: SharedGraph, call: Call, under: BlockCall | None) -> Any:
        """Runs the block compiled in a step in which foreign code runs, in this block or in others. What goes wrong in
        the graph ends here: another run of the whole step would run foreign code twice."""
        before = self._foreign.kept_inputs(call.inputs)
        try:
            with under.running() if under is not None else nullcontext():
                result = self.run_compiled(key, graph, call.inputs)
        except BaseException as error:
            if under is not None and under.raised is not None:
                raise under.raised from None
            if isinstance(error, self._stops):
                raise
            failure = ordinary(BaseException.with_traceback(error, None))
        else:
            if under is not None:
                self._foreign.note(under, call.foreign)
            return result
        for tensor, copy in before:
            tensor.copy_(copy)
        step.dirty = True
        learned = under is not None and (isinstance(failure, OtherForm) or self._foreign.learned(under))
        if not learned:
            self._listener.failed(self.block, graph, failure)
        return self._foreign.again(self.run_uncompiled, call.original, under)

    def run_compiled(self, key: tuple, graph: SharedGraph, inputs: Inputs) -> Any:
        try:
            with self._weights_ready(), at_places(self.block.places) if self._as_operator else nullcontext():
                return self._variants.run(key, graph, inputs)
        except Cancelled as cancelled:
            error = cancelled.error
        raise error

    def _weights_ready(self) -> AbstractContextManager[None]:
        """While it is open, nothing is to be done to the block's weights."""
        resolve_weights = self._resolve_weights
        if resolve_weights is None or not (self.block.casts_weights or self._weights.flagged):
            return nullcontext()
        return self._weights.resolved(resolve_weights, self.device, self._weights.dtype(self._dtype))

    def is_timed(self) -> bool:
        """Whether it is to be learned from this block what its class gains."""
        asked = self.block.gain.asks(self.block.signature) and self.block.functions == self._functions()
        return asked and not self._weights.moves(self.device)
