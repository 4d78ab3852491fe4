"""One compiled MODEL: uncompiled steps are timed, blocks are compiled and compared, compiled steps are timed, and the
faster way is kept."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import nn

from ..checks import Report, check_model
from ..processors import find_sites
from ..processors.attach import swapped_forwards
from ..processors.foreign import foreign_patches
from ..status import Record
from ..status.machine import package_version
from ..status.timing import PeakMemory, StepTimes, Stopwatch
from .backends import Backend, choose_backend
from .exceptions import BackendUnavailable, ModelUnfit
from .graphs import SharedGraph
from .memory import ModelMemory, memory_of
from .parity import Parity
from .region_runner import RegionRunner
from .regions import Region, find_regions
from .session_record import model_fields, session_fields
from .settings import Host, Settings

log = logging.getLogger(__name__)


class Session:
    """The state behind one OneDiff Compile node, as a wrapper of ``apply_model``.

    The first step runs uncompiled, ``watching`` what the blocks read, and so do a few later ones, for their time. The
    others run compiled; the first run of each block is compared with an uncompiled one. ``given_up`` says why nothing
    is compiled any more.
    """

    order = 1

    def __init__(self, settings: Settings, record: Record, host: Host, device: torch.device):
        self.settings = settings
        self.record = record
        self.host = host
        self.device = device
        self.backend: Backend | None = None
        self.runners: list[RegionRunner] = []
        self.memory = ModelMemory()
        self.times = StepTimes()
        self.last_steps: deque[float] = deque(maxlen=40)
        self.steps_per_image = 0
        self.peaks: dict[str, float | None] = {"eager_peak_mb": None, "compiled_peak_mb": None}
        self.foreign: list[dict[str, str]] = []
        self.baseline: dict[SharedGraph, tuple[int, float, int, int, int]] = {}
        self.watching = False
        self.given_up: str | None = None
        self.dirty = False  # this step compiled or compared something: its time means nothing
        self.ran_region = False
        self.ran_compiled = False
        self._stopwatch = Stopwatch(device)
        self._peak_memory = PeakMemory(device)
        self._blocks: list[tuple[str, int]] = []
        self._patchable: dict[str, list[nn.Module]] = {}
        self._steps = 0
        self._sampling = False
        self._compiling_since: float | None = None

    # What region runners ask for.

    def patched_below(self, region: Region) -> list[nn.Module]:
        """Patched sites inside a region, the region's own module not counted."""
        return [module for module in self._patchable[region.path] if "forward" in module.__dict__]

    def graph_of(self, key: tuple, find: Callable[[tuple], SharedGraph]) -> SharedGraph:
        """The shared graph of a block's variant for this session's backend, kept as long as the model is."""
        graph = find((self.backend.name if self.backend else None, self.settings.effort, self.device.type, *key))
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

    def verified(self, runner: RegionRunner, parity: Parity) -> None:
        """A block was compared; one that differs stays uncompiled."""
        if not parity.passed:
            self._unfit(f"{runner.region.path}: {runner.reason}")

    def region_failed(self, runner: RegionRunner, graph: SharedGraph, error: Exception) -> None:
        """A block could not be compiled: it runs uncompiled from now on, and so does every block of its graph."""
        if isinstance(error, self.host.interrupt_error):
            raise error
        assert self.backend is not None
        runner.reason, graph_break = self.backend.explain(error)
        if graph.graphs == 0:
            graph.failure = runner.reason
            graph.breaks = [graph_break] if graph_break else []
        log.warning("OneDiff: %s runs uncompiled: %s", runner.region.path, runner.reason)
        self._unfit(f"{runner.region.path} cannot be compiled: {runner.reason}")

    # What ComfyUI calls.

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of one whole sampling (``outer_sample``): what it measured is published at its end."""
        self._steps = 0
        self._sampling = True
        self._compiling_since = None
        for runner in self.runners:
            runner.skipped = None
        try:
            result = executor(*args, **kwargs)
            self.steps_per_image = self._steps
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
            self.foreign = foreign_patches(options)
            if self.given_up is None:
                self.prepare(executor.class_obj.diffusion_model)
        self._steps += 1
        if self.given_up is not None:
            return call()
        return self._run(call, _shape(x, c_crossattn))

    def _run(self, call: Callable[[], Any], shape: Hashable) -> Any:
        swaps = [runner.bind() for runner in self.runners]
        self.times = self.memory.times_of((self.settings, tuple(runner.functions() for runner in self.runners)))
        if self.settings.keep_faster and self.times.slower_compiled():
            self._give_up("compiled steps took longer than uncompiled ones")
            return call()
        self.watching = self.times.uncompiled_next(shape)
        self.dirty = self.ran_region = self.ran_compiled = False
        if self.watching and not self.times.compiled:
            self.record.update(live=True, state="measuring", progress=None)
        self._peak_memory.start()
        try:
            with swapped_forwards(swaps):
                result, milliseconds = self._stopwatch.time(call)
        except Exception as error:
            if isinstance(error, (self.host.interrupt_error, ModelUnfit)) or not self.ran_compiled:
                raise
            return self._rerun_uncompiled(call, error)
        if self.ran_region:  # else a caching node skipped the model
            self._measure(shape, milliseconds)
        return result

    def _rerun_uncompiled(self, call: Callable[[], Any], error: Exception) -> Any:
        """Compiled code failed in a block that ran before. It may have overwritten its inputs, so the whole step runs
        again, uncompiled."""
        assert self.backend is not None
        self._give_up(f"compiled code failed: {self.backend.explain(error)[0]}")
        return call()

    # Before the first step.

    def prepare(self, diffusion_model: nn.Module) -> None:
        """Checks the model, finds its regions and chooses the backend; again when another node changed its modules.

        Raises:
            ModelUnfit: when something cannot be compiled and the user asked to stop then.
        """
        blocks = [(path, id(module)) for path, module in diffusion_model.named_modules()]
        if blocks == self._blocks:
            return
        self._blocks = blocks
        self.memory = memory_of(diffusion_model)
        self.record.update(state="checking", progress=None)
        sites = find_sites(diffusion_model)
        report = check_model(diffusion_model, len(sites))
        self.record.update(check=report.as_dict(), **model_fields(diffusion_model, self.device))
        regions = find_regions(diffusion_model, sites, self.settings.scope)
        self._patchable = {r.path: [s.module for s in sites if s.path.startswith(f"{r.path}.")] for r in regions}
        self.runners = [RegionRunner(self, region, _check_reason(report, region)) for region in regions]
        if not self.runners:
            self._give_up("no block of this model has a form that can be compiled on its own")
        elif self._choose_backend():
            self.publish()
            broken = next((runner for runner in self.runners if runner.reason), None)
            if broken is not None:
                self._unfit(f"{broken.region.path} cannot be compiled: {broken.reason}")

    def _choose_backend(self) -> bool:
        try:
            self.backend, reason = choose_backend(self.settings.backend, self.device)
        except BackendUnavailable as error:
            self._note_backend(None, error.reason)
            self._give_up(error.reason)
            return False
        if self.settings.scope == "model":
            reason += " Scope “model” is not there yet: compiled block by block."
        self._note_backend(self.backend, reason)
        return True

    def _note_backend(self, used: Backend | None, reason: str) -> None:
        name, version = (used.name, package_version(used.package)) if used else (None, None)
        self.record.update(
            backend={"requested": self.settings.backend, "used": name, "version": version, "reason": reason}
        )

    # After each step.

    def _measure(self, shape: Hashable, milliseconds: float) -> None:
        self.last_steps.append(round(milliseconds, 2))
        if self.watching:
            self.times.add(shape, milliseconds, compiled=False)
            self.peaks["eager_peak_mb"] = self._peak_memory.read()
            if not self.times.compiled:
                return
        elif self.ran_compiled and not self.dirty:
            self.times.add(shape, milliseconds, compiled=True)
            self.peaks["compiled_peak_mb"] = self._peak_memory.read()
        reasons = [runner.reason for runner in self.runners if runner.reason]
        if len(reasons) == len(self.runners):
            self._give_up(reasons[0] if len(set(reasons)) == 1 else f"no block could be compiled: {reasons[0]}")
        else:
            self.publish(live=not self.dirty)

    # Outcomes.

    def _give_up(self, reason: str) -> None:
        """From now on the model runs uncompiled, at no cost."""
        self.given_up = reason
        self.watching = False
        self.publish()
        if not self.times.slower_compiled():
            self._unfit(reason)

    def _unfit(self, reason: str) -> None:
        if self.settings.stop_if_unfit:
            self.record.update(state="failed", progress=None)
            raise ModelUnfit(str(self.record["node"]), reason if reason.endswith(".") else f"{reason}.")

    @property
    def state(self) -> str:
        """The record's ``state``."""
        if self.given_up is not None:
            return "uncompiled"
        compiled = [r for r in self.runners if r.parity is not None and r.reason is None]
        if not compiled:
            return "measuring" if self._sampling else "idle"
        return "compiled" if len(compiled) == len(self.runners) and not any(r.skipped for r in compiled) else "partial"

    def publish(self, live: bool = False) -> None:
        """Writes what is known now into the record; ``live`` ones only as often as pages are told."""
        if live and not self.record.due:
            return
        self.record.stamp()
        self.record.update(live=live, **session_fields(self))


def _check_reason(report: Report, region: Region) -> str | None:
    errors = report.under(region.path)
    return f"{errors[0].path} ({errors[0].where}) {errors[0].what}" if errors else None


def _shape(x: torch.Tensor, context: torch.Tensor | None) -> Hashable:
    """What must be equal for two steps to be compared: the sizes of the latents and of the prompt."""
    return (tuple(x.shape), x.dtype, None if context is None else tuple(context.shape))
