"""One compiled MODEL: how its samplings and steps run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ...checks import Finding
from ...checks.reaching.batches import FindBatched
from ...checks.reaching.reach import FindReach
from ...patching.explicit_forward import forwards_given
from ...patching.foreign import foreign_patches
from ...patching.forwards import swapped_forwards
from ...patching.instead import StepCount, calls_expected
from ...patching.user_errors import ordinary
from ...patching.wrappers import APPLY_MODEL, KEY, ModelCall, ModelWrapper
from ...processors.attention_patch import AttentionPatch
from ...processors.finite import sampled_finite
from ...status import Record
from ..backends.protocol import BackendUnavailable
from ..blocks.batches import Batches
from ..blocks.shared_graph import GRAPHS, GraphCache
from ..choice.prove import PROOFS, Proofs
from ..measuring.block import Block
from ..measuring.cleared import CLEARED
from ..measuring.gains import GAINS, Gains
from ..measuring.model_memory import Variant
from .failures import common_reason, gain_nothing, leave_out, taken_over
from .faults import Faults, Sizes, Turns
from .one_block.block_runner import BlockRunner
from .prepared_model import PreparedModel, contents, shape_of
from .record_fields import model_fields
from .sampling import Sampling
from .settings import Host, Settings
from .step import Step

log = logging.getLogger(__name__)


class Session(Faults, ModelWrapper):
    """The state behind one OneDiff Compile node, as a wrapper of ``apply_model``.

    The first step runs uncompiled, ``watching`` what the blocks read. Then steps run compiled; the first run of each
    block is compared with an uncompiled one. Until it is clear which way is faster, compiled and uncompiled steps take
    turns.
    """

    order = 1

    def __init__(
        self,
        settings: Settings,
        record: Record,
        host: Host,
        device: torch.device,
        findings: tuple[Finding, ...] = (),
        find_reach: FindReach | None = None,
        find_batched: FindBatched | None = None,
        proofs: Proofs = PROOFS,
        graphs: GraphCache = GRAPHS,
        gains: Gains = GAINS,
    ):
        super().__init__(settings, record, host, device, proofs, graphs)
        self.gains = gains
        self._runners: list[BlockRunner] = []
        self._turns, self._sizes, self._cleared = Turns(), Sizes(), CLEARED.marks
        self._gains_of: tuple = ()
        self._findings, self._find_reach, self._find_batched = findings, find_reach, find_batched
        self._contents: list[tuple[str, int]] = []

    # What ComfyUI calls.

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of one whole sampling (``outer_sample``): what it measured is published at its end."""
        during = self.during = Sampling(now=True, broke_off=True, steps=StepCount(args, kwargs))
        self.measuring.begin_sampling()
        self.step, self.replaced_by = Step(None, Variant()), None
        self.failures.begin_sampling()
        self.compiler.begin_sampling()
        try:
            result = self.sample_again(partial(executor, *args, **kwargs), executor(*args, **kwargs))
            during.broke_off, during.gave_numbers = False, sampled_finite(result)
            self.measuring.end_sampling()
            if self.failures.given_up is None and calls_expected(args, kwargs):
                during.note_use(executor, self.blocks)
                during.unused = self.took_part.with_earlier(self.host.prompt(), during.steps.steps, during.unused)
            self.record.sampled(self.host.sampler())
            return result
        finally:
            during.now = False
            self.compiler.end_sampling(self.memory.graphs)
            if self.record["state"] != "failed":
                self.publish()
            log.info("OneDiff Compile (node %s): %s", self.record["node"], self.record["summary"])

    def predicting(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of what a sampler asks for in a step (``predict_noise``)."""
        self.during.steps.asked()
        return executor(*args, **kwargs)

    def around(self, call: ModelCall) -> Any:
        if not self.during.now:  # a node with a loop of its own
            self.record.sampled(self.host.sampler())
        inputs = (call.x, call.c_concat, call.c_crossattn, call.more)
        if self.measuring.begin_step(shape_of(inputs, call.control, call.options), "×".join(map(str, call.x.shape))):
            self._begin(call.executor.class_obj, call.options)
        is_slow = self.measuring.is_slow and not self.measuring.looks
        before = self.step
        if is_slow or self.failures.concerning(self.shape) is not None:
            result = call()
        else:
            with forwards_given(self.model.called_directly if self.model else []):
                result = self._run(call)
        self.during.steps.called(self.step is before or self.step.ran_block)
        return result

    def _begin(self, base_model: Any, options: dict[str, Any]) -> None:
        """Looks once a sampling at the model, and at what other nodes have put on it."""
        self._forget_cleared()
        model, dtype = base_model.diffusion_model, base_model.get_dtype_inference()
        wrappers = (options.get("wrappers") or {}).get(APPLY_MODEL, {})
        self.foreign = foreign_patches(options)
        patches = [wrapper for wrapper in wrappers.get(KEY, ()) if isinstance(wrapper, AttentionPatch)]
        self.patches = patches
        another = taken_over(model, wrappers, options)
        if another is not None:
            self.give_up(another)
        if self.failures.given_up is None:
            self.prepare(model, patches, dtype)
        self.memory.forget_cleared()
        for runner in self._runners:
            runner.begin_sampling()
        self._stop_if_unfit()

    def _forget_cleared(self) -> None:
        """Lets go of what the user cleared since the last sampling."""
        before, self._cleared = self._cleared, CLEARED.marks
        if before.measurements != self._cleared.measurements:
            self.measuring.forget()
            for runner in self._runners:
                runner.forget_measurements()
        if before.graphs != self._cleared.graphs:
            self._contents, self.blocks, self._runners = [], [], []
            self.compiler.forget()
            self.failures.forget()
        if before.backends != self._cleared.backends and self.compiler.backend is None:
            self._contents, self.failures.given_up = [], None

    def prepare(
        self,
        diffusion_model: nn.Module,
        patches: Sequence[AttentionPatch] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Checks the model and its processors, finds its blocks and chooses the backend; again when another node
        changed its modules or patched attention. ``patches`` are those on its attention, the outermost first.

        Raises:
            ModelUnfit: when something cannot be compiled and the user asked to stop then.
        """
        found = contents(diffusion_model, patches)
        if found == self._contents:
            return
        self._contents, self.dtype = [], dtype  # until all is known: Cancel may come before
        self.record.update(state="checking", progress=None)
        findings, scope, cancel = self._findings, self.settings.scope, self.host.cancel
        try:
            model = PreparedModel(
                diffusion_model, patches, findings, self._find_reach, scope, dtype, self.device, cancel
            )
            self.model, self.memory = model, model.memory
            self.compiler.batches = Batches(self._find_batched, [region.path for region in model.regions])
            self.record.update(check=model.check, **model_fields(diffusion_model, self.device))
            self.blocks = [Block(r, model.sites[r.path], *model.reasons(r.path)) for r in model.regions]
            parts = (self.compiler, self.failures, self.memory, self, self.host, self.device, dtype)
            self._runners = [BlockRunner(block, *parts) for block in self.blocks]
            if not self.blocks:
                self.give_up(f"this model has no part that scope “{scope}” could compile.")
            else:
                self.record.update(state="starting", progress=None)  # Inductor takes many seconds in a new process
                self._choose_backend()
        except BaseException:  # Cancel among others: the next sampling checks again
            self._contents, self.model, self.blocks, self._runners = [], None, [], []
            self.during.broke_off = True
            if self.record["state"] != "failed":
                self.publish()
            raise
        self._contents = found
        self.publish()
        self._stop_if_unfit()

    def _choose_backend(self) -> None:
        try:
            reason = self.compiler.choose_backend()
        except BackendUnavailable as error:
            self.give_up(error.reason)
            return
        leave_out(self.blocks, self.compiler.holds_operators)
        self._note_backend(reason)

    def _give_gains(self, functions: tuple) -> None:
        """Tells the blocks what is known of their classes, with what runs in them now."""
        size = self.measuring.size.partition("×")[2] if self.plans else None
        now = (functions, size, replace(CLEARED.marks, backends=0), self.blocks)
        if self.skips_classes_without_gain and now != self._gains_of:
            self._gains_of = now
            self.gains.give(self.blocks, self.device.type, (*self.compiler.way, self.dtype), size)

    def _run(self, call: ModelCall) -> Any:
        measuring = self.measuring
        functions = tuple(runner.look() for runner in self._runners)
        variant = self.step.variant
        if measuring.begins or not measuring.is_slow:
            variant = self.memory.variant((self.settings, functions))
            measuring.times = variant.times
        self._give_gains(functions)
        is_slow = self._found_slow()
        if is_slow and not measuring.looks:
            return call()
        watching = not is_slow and (variant.times.warm_up_next(self.shape) or self.patches_decide)
        compared = is_slow or self._compares_next
        step = self.step = Step(self.shape, variant, watching, compared, bypassing=compared)
        step.number, step.size = measuring.number, self._sizes.of(measuring.size, self.shape)
        if not (watching or compared) and measuring.settled:
            step.again = self._turns.next(self.called)
        self.during.tried = True
        if watching:
            self.record.update(live=True, state="measuring", progress=None)
        failure: Exception | None = None
        kept = [] if watching or compared else [held for patch in self.patches if (held := patch.instances.kept())]
        try:
            with swapped_forwards([runner.bind(step) for runner in self._runners]):
                result, milliseconds = measuring.time(call)
        except Exception as error:
            if step.running is None or isinstance(error, self.host.cancel.stops):
                raise
            # The traceback would keep the failed step's memory.
            failure = ordinary(BaseException.with_traceback(error, None))
        if failure is not None:
            for held in kept:  # what ran is called again
                held.put_back()
            return self.rerun(step, call, failure)
        if self.is_nonsense(step, call, result):
            for held in kept:
                held.put_back()
            return self.recompute(call)
        if step.ran_block:  # else a caching node skipped the model
            measuring.ran(tuple(block.calls for block in self.blocks))
            self._after(step, self.without_trials(milliseconds))
        return result

    def _after(self, step: Step, milliseconds: float) -> None:
        for block in self.blocks:
            block.called = block.ran
        self.measuring.note(milliseconds, step.kind)
        if step.watching or step.compared:
            self.measuring.count(milliseconds, compiled=False)
            if step.watching:
                return
            for patch in self.patches:
                patch.note_uncompiled(milliseconds)
        elif step.ran_compiled and not step.dirty and not self.compiler.waiting:
            self.measuring.count(milliseconds, compiled=True)
        elif gain_nothing(self.called) and not step.dirty:
            self.measuring.count(milliseconds, compiled=False)
        reason = common_reason(self.called)
        if reason is not None:
            self.give_up(reason)
        else:
            self._found_slow()
            self.publish(live=not step.dirty)

    @property
    def _compares_next(self) -> bool:
        """Whether the next step runs uncompiled beside compiled ones: not before there are any, and all."""
        is_compiled = any(block.parity for block in self.blocks) and not self.compiler.waiting
        return is_compiled and self.measuring.uncompiled_next

    def _found_slow(self) -> bool:
        if self.measuring.found_slow(gain_nothing(self.called) and not self.step.dirty):
            self.publish()
        return self.measuring.is_slow

    def compiling(self, block: Block) -> None:
        """Tells people which block is next, and lets Cancel through."""
        self.host.check_interrupt()
        self.step.dirty = True
        progress = self.compiler.progress(block, self.called)
        self.record.update(live=progress["done"] > 0, state="compiling", progress=progress)

    def comparing(self, block: Block) -> None:
        """Nothing is compiled: people go on seeing how fast it is."""
        self.host.check_interrupt()
        self.step.dirty = True
