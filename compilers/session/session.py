"""One compiled MODEL: how its steps run.

What is looked at before the first step is in preparing.py; what blocks are compiled with, and how long that takes, in
compiling.py; what is measured and decided in measuring.py; what failed, and what that concerns, in failures.py; what is
published in session_record.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import nn

from ...checks import Finding
from ...checks.reaching.reach import FindReach
from ...patching.explicit_forward import forwards_given
from ...patching.foreign import foreign_patches
from ...patching.forwards import swapped_forwards
from ...patching.instead import called_instead, calls_expected
from ...patching.user_errors import ordinary
from ...patching.wrappers import APPLY_MODEL, KEY
from ...processors.attention_patch import AttentionPatch
from ...status import Record
from ..backends.protocol import BackendUnavailable
from ..blocks.shared_graph import GRAPHS, GraphCache, SharedGraph
from ..choice.prove import PROOFS, Proofs
from ..measuring.cleared import CLEARED
from ..measuring.find_gains import find_gains
from ..measuring.model_memory import ModelMemory, Variant
from ..measuring.step_measuring import Measuring
from .block_runner import RegionRunner
from .compiler import Compiling
from .failures import Failures, ModelUnfit, common_reason
from .prepared_model import PreparedModel, contents, shape_of
from .record_fields import backend_field, model_fields, session_fields
from .settings import Host, Settings

log = logging.getLogger(__name__)


class Session:
    """The state behind one OneDiff Compile node, as a wrapper of ``apply_model``.

    The first step runs uncompiled, ``watching`` what the blocks read. Then steps run compiled; the first run of each
    block is compared with an uncompiled one. Until it is clear which way is faster, compiled and uncompiled steps take
    turns. ``replaced_by`` is the id of a later OneDiff Compile node whose session took this one's place, until this one
    samples (for another branch). With ``leaves_classes`` blocks whose class gains nothing are not compiled (gains.py).
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
        proofs: Proofs = PROOFS,
        graphs: GraphCache = GRAPHS,
    ):
        self.settings = settings
        self.record = record
        self.host = host
        self.device = device
        self.dtype = torch.float32  # what the model computes in
        self.model: PreparedModel | None = None
        self.runners: list[RegionRunner] = []
        self.memory = ModelMemory()
        self.variant = Variant()
        self.leaves_classes = settings.keep_faster
        self.measuring = Measuring(device, settings.keep_faster)
        self.failures = Failures()
        self.compiling = Compiling(settings, device, proofs, graphs)
        self.foreign: list[dict[str, str]] = []
        self.patched: list[dict[str, str]] = []
        self.replaced_by: str | None = None
        self.sampling_now = False
        # Of the current sampling, or the last one:
        self.unused: dict[str, Any] | None = None  # why compiling had no effect, as the record has it
        self.broke_off = False  # it ended before it was done
        self.tried = False  # a step ran in which blocks could have been called
        # Of the current step:
        self.watching = False
        self.compared = False  # it runs uncompiled, to be compared with a compiled one
        self.bypassing = False  # the rest of the step runs uncompiled
        self.dirty = False  # it compiled or compared something, so its time means nothing
        self.ran_region = False
        self.ran_compiled = False
        self.running: tuple[RegionRunner, SharedGraph] | None = None
        self._cleared = CLEARED.marks
        self._findings = findings
        self._find_reach = find_reach
        self._contents: list[tuple[str, int]] = []

    # What ComfyUI calls.

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of one whole sampling (``outer_sample``): what it measured is published at its end."""
        self.measuring.begin_sampling()
        self.sampling_now = True
        self.ran_compiled = self.tried = False
        self.replaced_by = self.unused = None
        self.broke_off = True
        self.compiling.begin_sampling()
        try:
            result = executor(*args, **kwargs)
            self.broke_off = False
            self.measuring.end_sampling()
            self.unused = self._unused(executor, args, kwargs)
            self.record.sampled(self.host.sampler())
            return result
        finally:
            self.sampling_now = False
            self.compiling.end_sampling(self.memory.graphs)
            if self.record["state"] != "failed":
                self.publish()
            log.info("OneDiff Compile (node %s): %s", self.record["node"], self.record["summary"])

    def _unused(self, executor: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Why nothing of this session took part in the sampling that just ended, None when something did or could not
        have."""
        if self.failures.given_up is not None or not calls_expected(args, kwargs):
            return None
        guider = getattr(executor, "class_obj", None)
        if not self.measuring.steps_per_image:
            return {"why": "not called", **called_instead(guider, KEY)}
        if self.tried and not any(runner.ran for runner in self.runners):
            return {"why": "not reached", **called_instead(guider, KEY, inside=True)}
        return None

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ):
        options = transformer_options if transformer_options is not None else {}

        def call() -> Any:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

        if self.measuring.begin_step(shape_of((x, c_concat, c_crossattn, kwargs), control, options)):
            self._begin(executor.class_obj, options)
        is_slow = self.measuring.is_slow and not self.measuring.looks
        if is_slow or self.failures.concerning(self.shape) is not None:
            return call()
        with forwards_given(self.model.called_directly if self.model else []):
            return self._run(call)

    @property
    def shape(self) -> Hashable:
        """Of the step that runs, or ran last."""
        return self.measuring.shape

    def _begin(self, base_model: Any, options: dict[str, Any]) -> None:
        """Looks once a sampling at the model, and at what other nodes have put on it."""
        self._forget_cleared()
        model, dtype = base_model.diffusion_model, base_model.get_dtype_inference()
        wrappers = (options.get("wrappers") or {}).get(APPLY_MODEL, {})
        self.foreign = foreign_patches(options)
        patches = [wrapper for wrapper in wrappers.get(KEY, ()) if isinstance(wrapper, AttentionPatch)]
        self.patched = [described for patch in patches for described in patch.described]
        if "torch.compile" in wrappers or hasattr(model, "_orig_mod"):
            self.give_up("another node compiles the whole model (TorchCompileModel): remove one of the two.")
        elif "multigpu_thread_device" in options:
            self.give_up("ComfyUI runs this model on several GPUs, which this version does not support.")
        if self.failures.given_up is None:
            self.prepare(model, patches, dtype)
        self.memory.forget_cleared()
        for runner in self.runners:
            runner.begin()
        self._stop_if_unfit()

    def _forget_cleared(self) -> None:
        """Lets go of what the user cleared since the last sampling."""
        (measurements, graphs, backends), self._cleared = self._cleared, CLEARED.marks
        if measurements != CLEARED.measurements:
            self.measuring.forget()
            self._find_gains()
            for runner in self.runners:
                runner.forget_measurements()
        if graphs != CLEARED.graphs:
            self._contents, self.runners = [], []
            self.compiling.forget()
            self.failures.forget()
        if backends != CLEARED.backends and self.compiling.backend is None:
            self._contents, self.failures.given_up = [], None

    def prepare(
        self,
        diffusion_model: nn.Module,
        patches: Sequence[AttentionPatch] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Checks the model and its processors, finds its regions and chooses the backend; again when another node
        changed its modules or patched attention.

        Args:
            patches: what is on the model's attention, the outermost first.
            dtype: what the model computes in.

        Raises:
            ModelUnfit: when something cannot be compiled and the user asked to stop then.
        """
        found = contents(diffusion_model, patches)
        if found == self._contents:
            return
        self._contents = found
        self.record.update(state="checking", progress=None)
        scope = self.settings.scope
        self.dtype = dtype
        findings, cancel = self._findings, self.host.cancel
        try:
            model = PreparedModel(
                diffusion_model, patches, findings, self._find_reach, scope, dtype, self.device, cancel
            )
        except BaseException:  # Cancel among others: the next sampling checks again
            self._contents, self.model, self.runners, self.broke_off = [], None, [], True
            self.publish()
            raise
        self.model, self.memory = model, model.memory
        self.record.update(check=model.check, **model_fields(diffusion_model, self.device))
        self.runners = [RegionRunner(self, r, model.unfit.get(r.path), model.sites[r.path]) for r in model.regions]
        if not self.runners:
            self.give_up(f"this model has no part that scope “{scope}” could compile.")
        else:
            self._choose_backend()
        self.publish()
        self._stop_if_unfit()

    def _choose_backend(self) -> None:
        try:
            reason = self.compiling.choose_backend()
        except BackendUnavailable as error:
            self.give_up(error.reason)
            return
        self._find_gains()
        self.record.update(backend=backend_field(self, reason))

    def _find_gains(self) -> None:
        if self.leaves_classes:
            find_gains(self.runners, self.device.type, (*self.compiling.way, self.dtype))

    # One step.

    def _run(self, call: Callable[[], Any]) -> Any:
        swaps = [runner.bind() for runner in self.runners]
        measuring = self.measuring
        if measuring.begins or not measuring.is_slow:
            self.variant = self.memory.variant((self.settings, tuple(runner.bound for runner in self.runners)))
            measuring.times = self.variant.times
        is_slow = self._found_slow()
        if is_slow and not measuring.looks:
            return call()
        self.watching = not is_slow and measuring.times.warm_up_next(self.shape)
        self.bypassing = self.compared = is_slow or self._compares_next
        self.dirty = self.ran_region = self.ran_compiled = False
        self.tried = True
        self.running = None
        if self.watching:
            self.record.update(live=True, state="measuring", progress=None)
        failure: Exception | None = None
        try:
            with swapped_forwards(swaps):
                result, milliseconds = measuring.time(call)
        except Exception as error:
            if self.running is None:
                raise
            failure = ordinary(error.with_traceback(None))  # the traceback would keep the failed step's memory
        if failure is not None:
            return self._rerun(call, failure)
        if self.ran_region:  # else a caching node skipped the model
            measuring.ran(tuple(runner.calls for runner in self.runners))
            self._after_step(milliseconds)
        return result

    def _rerun(self, call: Callable[[], Any], error: Exception) -> Any:
        """Compiled code of a block that ran before failed. It may have overwritten its inputs, so the whole step runs
        again, without that graph."""
        assert self.running is not None
        runner, graph = self.running
        self.block_failed(runner, graph, error)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.publish()
        return call()

    def _after_step(self, milliseconds: float) -> None:
        for runner in self.runners:
            runner.called = runner.ran
        self.measuring.note(milliseconds, self._step_kind)
        if self.watching or self.compared:
            self.measuring.count(milliseconds, compiled=False)
            if self.watching:
                return
        elif self.ran_compiled and not self.dirty and not self.compiling.waiting:
            self.measuring.count(milliseconds, compiled=True)
        reason = common_reason(self.called)
        if reason is not None:
            self.give_up(reason)
        else:
            self._found_slow()
            self.publish(live=not self.dirty)

    @property
    def _compares_next(self) -> bool:
        """Whether the next step runs uncompiled beside compiled ones: not before there are any, and all."""
        is_compiled = any(runner.parity for runner in self.runners) and not self.compiling.waiting
        return is_compiled and self.measuring.uncompiled_next

    def _found_slow(self) -> bool:
        if self.measuring.found_slow():
            self.publish()
        return self.measuring.is_slow

    @property
    def _step_kind(self) -> str:
        """How the step that just ended was run."""
        if self.dirty and not self.watching:
            return "compiling"
        return "compiled" if self.ran_compiled else "uncompiled"

    # What region runners ask for.

    def compile_block(self, block: nn.Module, graph: SharedGraph) -> Callable:
        """The compiled module of a block. Nothing is compiled before its first call."""
        return self.compiling.compile(block, graph)

    def before_verify(self, runner: RegionRunner) -> None:
        """Tells people which block is next, and lets Cancel through."""
        self.host.check_interrupt()
        self.dirty = True
        progress = self.compiling.progress(runner, self.called)
        self.record.update(live=progress["done"] > 0, state="compiling", progress=progress)

    def block_failed(self, runner: RegionRunner, graph: SharedGraph, error: Exception) -> None:
        """A compiled block raised. It runs uncompiled from now on, and so does every block of its graph; after running
        out of memory, only steps of this shape do."""
        reason = self.failures.note(error, graph, self.shape, self.compiling.explain)
        if reason is None:
            self.bypassing = True
        else:
            self.give_up_block(runner, reason)

    def give_up_block(self, runner: RegionRunner, reason: str) -> None:
        """A block runs uncompiled from now on."""
        self.failures.drop_block(runner, reason)
        self._stop_if_unfit()

    # Outcomes.

    def give_way(self, node: str) -> None:
        """Another OneDiff Compile node took over the model that this one's node handed on."""
        self.replaced_by = node
        self.publish()

    def give_up(self, reason: str) -> None:
        """From now on the model runs uncompiled, at next to no cost."""
        self.failures.given_up = reason
        self.watching = False
        self.record.update(backend=backend_field(self, reason))
        self.publish()
        self._stop_if_unfit()

    def _stop_if_unfit(self) -> None:
        reason = self.failures.first(self.runners) if self.settings.stop_if_unfit else None
        if reason is not None:
            self.record.update(backend=backend_field(self, reason), state="failed", progress=None)
            raise ModelUnfit(str(self.record["node"]), reason)

    @property
    def called(self) -> list[RegionRunner]:
        """The runners of blocks that the model calls, as far as the last step shows: an adapter's layers may wait on a
        model that does without them now."""
        return [runner for runner in self.runners if runner.called]

    @property
    def uncompiled_because(self) -> str | None:
        """Why steps like the last one run uncompiled as a whole, None when they do not."""
        failed = self.failures.concerning(self.shape)
        if failed is not None:
            return failed
        if self.measuring.is_slow:
            return self.measuring.why_uncompiled
        reasons = [runner.uncompiled_because for runner in self.called]
        if not reasons or not all(reasons):
            return None
        others = [runner.uncompiled_because for runner in self.called if not runner.left_for_no_gain]
        return others[0] if others else reasons[0]

    @property
    def step_was_compiled(self) -> bool:
        """Whether the last model call ran compiled, and neither compiled nor compared anything."""
        whole = self.uncompiled_because is None and not self.watching
        return whole and self.ran_compiled and not self.dirty and not self.bypassing

    @property
    def settled(self) -> bool:
        """Whether steps like the last one were timed both ways, or run uncompiled for good."""
        return self.uncompiled_because is not None or self.measuring.settled

    def publish(self, live: bool = False) -> None:
        """Writes what is known now into the record; ``live`` ones only as often as pages are told."""
        if live and not self.record.due:
            return
        if self.measuring.last_steps:
            self.record.stamp()
        self.record.update(live=live, **session_fields(self))
