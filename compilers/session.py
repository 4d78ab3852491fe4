"""One compiled MODEL: uncompiled steps are timed, blocks are compiled and compared, compiled steps are timed, and the
faster way is kept."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..checks import Finding, check_model
from ..checks.reaching.reach import FindReach
from ..processors import find_sites
from ..processors.attach import APPLY_MODEL, KEY, AttentionPatch, processors_of, swapped_forwards
from ..processors.foreign import foreign_patches
from ..processors.repair import forwards_given, needs_repair
from ..status import Record
from ..status.machine import package_version
from ..status.timing import PeakMemory, StepTimes, Stopwatch
from .backends import Backend, choose_backend
from .clearing import CLEARED
from .exceptions import BackendUnavailable, ModelUnfit
from .explain import is_out_of_memory
from .graphs import SharedGraph
from .memory import ModelMemory, memory_of
from .region_runner import RegionRunner
from .regions import Region, find_regions
from .session_record import model_fields, session_fields
from .settings import Host, Settings

log = logging.getLogger(__name__)


class Session:
    """The state behind one OneDiff Compile node, as a wrapper of ``apply_model``.

    The first step runs uncompiled, ``watching`` what the blocks read, and so do a few later ones, for their time. The
    others run compiled; the first run of each block is compared with an uncompiled one. ``given_up`` says why nothing
    is compiled any more; shapes in ``slow`` and ``too_large`` run uncompiled, the others not. ``replaced_by`` is the id
    of a later OneDiff Compile node whose session took this one's place, until this one samples (for another branch).
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
    ):
        self.settings = settings
        self.record = record
        self.host = host
        self.device = device
        self.backend: Backend | None = None
        self.runners: list[RegionRunner] = []
        self.memory = ModelMemory()
        self.times = StepTimes()
        self.shape: Hashable = None
        self.slow: set[Hashable] = set()
        self.too_large: set[Hashable] = set()
        self.last_steps: deque[tuple[float, str]] = deque(maxlen=40)  # milliseconds and how they were run
        self.steps_per_image = 0
        self.peaks: dict[str, float | None] = {"eager_peak_mb": None, "compiled_peak_mb": None}
        self.foreign: list[dict[str, str]] = []
        self.patched: list[dict[str, str]] = []
        self.baseline: dict[SharedGraph, tuple[int, float, int, int, int, float]] = {}
        self.failures: dict[SharedGraph, str] = {}
        self.breaks: list[dict[str, str]] = []
        self.given_up: str | None = None
        self.replaced_by: str | None = None
        # Of the current step:
        self.watching = False
        self.bypassing = False  # the rest of the step runs uncompiled
        self.dirty = False  # it compiled or compared something, so its time means nothing
        self.ran_region = False
        self.ran_compiled = False
        self.running: tuple[RegionRunner, SharedGraph] | None = None
        self._cleared = CLEARED.marks
        self._findings = findings
        self._find_reach = find_reach
        self._stopwatch = Stopwatch(device)
        self._peak_memory = PeakMemory(device)
        self._blocks: list[tuple[str, int]] = []
        self._patchable: dict[str, list[nn.Module]] = {}
        self._called_directly: list[nn.Module] = []
        self._steps = 0
        self._sampling = False
        self._compiling_since: float | None = None

    # What region runners ask for.

    def patched_below(self, region: Region) -> list[nn.Module]:
        """Patched sites inside a region, the region's own module not counted."""
        return [module for module in self._patchable[region.path] if "forward" in module.__dict__]

    def graph_of(self, key: tuple, find: Callable[[tuple], SharedGraph]) -> SharedGraph:
        """The shared graph of a block's variant for this session's backend, kept as long as the model is."""
        backend = self.backend.name if self.backend else None
        graph = find((backend, self.settings.effort, self.device.type, self._cleared[1], *key))
        self.memory.graphs.add(graph)
        self.baseline.setdefault(graph, graph.counts())
        return graph

    def compile_block(self, block: nn.Module, graph: SharedGraph) -> Callable:
        """Asks OneDiff for the compiled module of a block. Nothing is compiled before its first call."""
        assert self.backend is not None
        return self.backend.compile(block, graph, self.settings.effort)

    def before_verify(self, runner: RegionRunner) -> None:
        """Tells people which block is next, and lets Cancel through."""
        self.host.check_interrupt()
        self.dirty = True
        self._compiling_since = self._compiling_since or time.monotonic()
        done = sum(r.parity is not None or r.reason is not None for r in self.runners)
        progress = {
            "done": done,
            "total": len(self.runners),
            "path": runner.region.path,
            "seconds": round(time.monotonic() - self._compiling_since, 1),
        }
        self.record.update(live=done > 0, state="compiling", progress=progress)

    def block_failed(self, runner: RegionRunner, graph: SharedGraph, error: Exception) -> None:
        """A compiled block raised. It runs uncompiled from now on, and so does every block of its graph; after running
        out of memory, only steps of this shape do."""
        assert self.backend is not None
        if is_out_of_memory(error):
            self.too_large.add(self.shape)
            self.bypassing = True
            return
        reason, graph_break = self.backend.explain(error)
        self.failures[graph] = reason
        if graph_break is not None:
            self.breaks.append(graph_break)
        self.give_up_block(runner, reason)

    def give_up_block(self, runner: RegionRunner, reason: str) -> None:
        """A block runs uncompiled from now on."""
        runner.reason = reason
        log.warning("OneDiff: %s runs uncompiled: %s", runner.region.path, reason)
        self._stop_if_unfit()

    # What ComfyUI calls.

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of one whole sampling (``outer_sample``): what it measured is published at its end."""
        self._steps = 0
        self._sampling = True
        self.replaced_by = None
        self._compiling_since = None
        try:
            result = executor(*args, **kwargs)
            self.steps_per_image = self._steps
            for runner in self.runners:
                if not runner.ran and self.ran_compiled:
                    runner.skipped = "the model did not call it in this sampling."
            return result
        finally:
            self._sampling = False
            if self.record["state"] != "failed":
                self.publish()
            log.info("OneDiff Compile (node %s): %s", self.record["node"], self.record["summary"])

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ):
        options = transformer_options if transformer_options is not None else {}

        def call() -> Any:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

        if self._steps == 0:
            self._begin(executor.class_obj, options)
        self._steps += 1
        self.shape = _shape((x, c_concat, c_crossattn, kwargs), control, options)
        if self.given_up is not None or self.shape in self.slow or self.shape in self.too_large:
            return call()
        with forwards_given(self._called_directly):
            return self._run(call)

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
        if self.given_up is None:
            self.prepare(model, patches, dtype)
        self.memory.forget_cleared()
        for runner in self.runners:
            runner.begin()
        self._stop_if_unfit()

    def _forget_cleared(self) -> None:
        """Lets go of what the user cleared since the last sampling."""
        (measurements, graphs), self._cleared = self._cleared, CLEARED.marks
        if measurements != CLEARED.measurements:
            self.slow.clear()
            self.last_steps.clear()
            self.steps_per_image = 0
            self.peaks = dict.fromkeys(self.peaks)
        if graphs != CLEARED.graphs:
            self._blocks, self.runners, self.given_up = [], [], None
            for found in (self.baseline, self.failures, self.breaks, self.too_large):
                found.clear()

    def _run(self, call: Callable[[], Any]) -> Any:
        swaps = [runner.bind() for runner in self.runners]
        self.times = self.memory.times_of((self.settings, tuple(runner.functions() for runner in self.runners)))
        if self._found_slow():
            return call()
        self.watching = self.times.uncompiled_next(self.shape)
        self.bypassing = self.dirty = self.ran_region = self.ran_compiled = False
        self.running = None
        if self.watching and not self.times.compiled:
            self.record.update(live=True, state="measuring", progress=None)
        self._peak_memory.start()
        failure: Exception | None = None
        try:
            with swapped_forwards(swaps):
                result, milliseconds = self._stopwatch.time(call, wait=self.times.open(self.shape))
        except Exception as error:
            if self.running is None:
                raise
            failure = error.with_traceback(None)  # the traceback would keep the failed step's memory
        if failure is not None:
            return self._rerun(call, failure)
        if self.ran_region:  # else a caching node skipped the model
            self._measure(milliseconds)
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

    # Before the first step.

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
        blocks = [(path, id(module)) for path, module in diffusion_model.named_modules()]
        blocks += [(site.path, id(processor)) for site, processor in processors_of(patches)]
        if blocks == self._blocks:
            return
        self._blocks = blocks
        self.memory = memory_of(diffusion_model)
        self._called_directly = [module for module in diffusion_model.modules() if needs_repair(type(module))]
        self.record.update(state="checking", progress=None)
        sites = find_sites(diffusion_model)
        report = check_model(
            diffusion_model,
            len(sites),
            attached=processors_of(patches),
            find_reach=self._find_reach,
            dtype=dtype,
            device=self.device,
        ).extended(self._findings)
        self.record.update(check=report.as_dict(), **model_fields(diffusion_model, self.device))
        scope = "attention" if self.settings.scope == "attention" else "blocks"
        regions = find_regions(diffusion_model, sites, scope)
        self._patchable = {r.path: [s.module for s in sites if s.path.startswith(f"{r.path}.")] for r in regions}
        broken = {region.path: report.under(region.path) for region in regions}
        self.runners = [RegionRunner(self, r, broken[r.path][0].brief if broken[r.path] else None) for r in regions]
        if not self.runners:
            self.give_up(f"this model has no part that scope “{scope}” could compile.")
        else:
            self._choose_backend()
        self.publish()
        self._stop_if_unfit()

    def _choose_backend(self) -> None:
        try:
            self.backend, reason = choose_backend(self.settings.backend, self.device)
        except BackendUnavailable as error:
            self.give_up(error.reason)
            return
        if self.settings.scope == "model":
            reason += " Scope “model” is not there yet: compiled block by block."
        self._note_backend(reason)

    def _note_backend(self, reason: str) -> None:
        name, version = (self.backend.name, package_version(self.backend.package)) if self.backend else (None, None)
        self.record.update(
            backend={"requested": self.settings.backend, "used": name, "version": version, "reason": reason}
        )

    # After each step.

    def _measure(self, milliseconds: float) -> None:
        self.last_steps.append((round(milliseconds, 2), self._step_kind))
        if self.watching:
            self.times.add(self.shape, milliseconds, compiled=False)
            self.peaks = {**self.peaks, "eager_peak_mb": self._peak_memory.read()}
            if not self.times.compiled:
                return
        elif self.ran_compiled and not self.dirty:
            self.times.add(self.shape, milliseconds, compiled=True)
            self.peaks = {**self.peaks, "compiled_peak_mb": self._peak_memory.read()}
        reasons = [runner.reason for runner in self.runners if runner.reason]
        if len(reasons) == len(self.runners):
            self.give_up(reasons[0] if len(set(reasons)) == 1 else f"no block could be compiled: {reasons[0]}")
        else:
            self._found_slow()
            self.publish(live=not self.dirty)

    def _found_slow(self) -> bool:
        """Whether compiled steps of this shape are known to be slower, and the user wants the faster way."""
        if self.settings.keep_faster and self.times.slower_compiled(self.shape):
            self.slow.add(self.shape)
            self.publish()
        return self.shape in self.slow

    @property
    def _step_kind(self) -> str:
        """How the step that just ended was run."""
        if self.dirty and not self.watching:
            return "compiling"
        return "compiled" if self.ran_compiled else "uncompiled"

    # Outcomes.

    def give_way(self, node: str) -> None:
        """Another OneDiff Compile node took over the model that this one's node handed on."""
        self.replaced_by = node
        self.publish()

    def give_up(self, reason: str) -> None:
        """From now on the model runs uncompiled, at next to no cost."""
        self.given_up = reason
        self.watching = False
        self._note_backend(reason)
        self.publish()
        self._stop_if_unfit()

    @property
    def uncompiled_because(self) -> str | None:
        """Why steps like the last one run uncompiled as a whole, None when they do not."""
        if self.given_up is not None:
            return self.given_up
        if self.shape in self.too_large:
            return "compiled steps of this size ran out of memory."
        if self.shape in self.slow:
            return "compiled steps took longer than uncompiled ones."
        reasons = [runner.uncompiled_because for runner in self.runners]
        return reasons[0] if reasons and all(reasons) else None

    def _stop_if_unfit(self) -> None:
        if not self.settings.stop_if_unfit:
            return
        broken = next((r for r in self.runners if r.reason), None)
        reason = self.given_up or (f"{broken.region.path} cannot be compiled: {broken.reason}" if broken else None)
        if reason is not None:
            self._note_backend(reason)
            self.record.update(state="failed", progress=None)
            raise ModelUnfit(str(self.record["node"]), reason)

    @property
    def step_was_compiled(self) -> bool:
        """Whether the last model call ran compiled, and neither compiled nor compared anything."""
        whole = self.uncompiled_because is None and not self.watching
        return whole and self.ran_compiled and not self.dirty and not self.bypassing

    @property
    def settled(self) -> bool:
        """Whether steps like the last one were timed both ways, or run uncompiled for good."""
        return self.uncompiled_because is not None or not self.times.open(self.shape)

    @property
    def state(self) -> str:
        """The record's ``state``."""
        if self.replaced_by is not None:
            return "idle"
        if self.uncompiled_because is not None:
            return "uncompiled"
        compared = [r for r in self.runners if r.parity is not None]
        if not compared:
            return "measuring" if self._sampling else "idle"
        return "partial" if any(r.uncompiled_because for r in self.runners) else "compiled"

    def publish(self, live: bool = False) -> None:
        """Writes what is known now into the record; ``live`` ones only as often as pages are told."""
        if live and not self.record.due:
            return
        if self.last_steps:
            self.record.stamp()
        self.record.update(live=live, **session_fields(self))


def _shape(inputs: Any, control: Any, options: dict[str, Any]) -> Hashable:
    """What must be equal for two steps to be compared: the sizes of all inputs, whether a ControlNet acts, and which of
    the prompts are in the batch."""
    leaves = pytree.tree_leaves(inputs)
    sizes = tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves if isinstance(leaf, torch.Tensor))
    return (sizes, control is not None, tuple(options.get("cond_or_uncond") or ()))
