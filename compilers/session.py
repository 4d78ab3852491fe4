"""One compiled MODEL: uncompiled steps are timed, blocks are compiled and compared, compiled steps are timed, and the
faster is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..checks import Report, check_model
from ..processors import find_sites
from ..processors.attach import swapped_forwards
from ..processors.foreign import foreign_patches
from ..status import Record
from ..status.machine import package_version
from ..status.timing import PeakMemory, StepTimes, Stopwatch, median
from .backends import Backend, choose_backend
from .exceptions import BackendUnavailable, ModelUnfit
from .graphs import SharedGraph
from .options import Reads
from .parity import Parity, worst
from .region_runner import RegionRunner
from .regions import find_regions

log = logging.getLogger(__name__)

#: Uncompiled steps that are timed before compiling. The first one also warms up, and counts only when it stays alone.
UNCOMPILED_STEPS = 2

#: Compiled steps after which the slower way is given up.
COMPILED_STEPS = 3

#: A compiled step that takes this much longer than an uncompiled one is slower; less than that is noise.
NOISE = 1.03


@dataclass(frozen=True)
class Settings:
    """The inputs of the node."""

    backend: str = "auto"
    scope: str = "blocks"
    effort: str = "fast start"
    stop_if_unfit: bool = False
    keep_faster: bool = True


@dataclass(frozen=True)
class Host:
    """What a session needs of ComfyUI. ``check_interrupt`` raises when the user pressed Cancel."""

    check_interrupt: Callable[[], None]
    interrupt_error: type[BaseException]
    version: str | None = None


class Session:
    """The state behind one OneDiff Compile node, as a wrapper of ``apply_model``.

    It goes through ``watching`` (uncompiled, timed), ``active`` (compiled; the first run of each block is compared with an
    uncompiled one) and, when compiling is not possible or not worth it, neither (``given_up`` says why).
    """

    order = 1

    def __init__(self, settings: Settings, record: Record, host: Host, device: torch.device):
        self.settings = settings
        self.record = record
        self.host = host
        self.device = device
        self.backend: Backend | None = None
        self.runners: list[RegionRunner] = []
        self.report: Report | None = None
        self.times = StepTimes()
        self.stopwatch = Stopwatch(device)
        self.memory = PeakMemory(device)
        self.peaks: dict[str, float | None] = {"eager_peak_mb": None, "compiled_peak_mb": None}
        self.watching = False
        self.active = False
        self.given_up: str | None = None
        self.dropped = False
        self.dirty = False
        self.ran_region = False
        self.ran_compiled = False
        self._reads: dict[type, Reads] = {}
        self._blocks: list[tuple[str, int]] = []
        self._sites_of: dict[str, list[nn.Module]] = {}
        self._foreign: list[dict[str, str]] = []
        self._steps = 0
        self._images: list[int] = []
        self._started = 0.0
        self._verifying = 0

    # What region runners ask for.

    @property
    def backend_key(self) -> tuple:
        return (self.backend.name if self.backend else None, self.settings.effort, self.device.type)

    def reads(self, cls: type[nn.Module]) -> Reads:
        """What blocks of a class have been seen to read from ``transformer_options``."""
        return self._reads.setdefault(cls, Reads())

    def patched_below(self, region: Any) -> list[nn.Module]:
        """Patched sites inside a region (the region's own module not counted)."""
        return [m for m in self._sites_of.get(region.path, ()) if "forward" in m.__dict__]

    def compile_block(self, runner: RegionRunner, graph: SharedGraph) -> Callable:
        """Asks OneDiff for the compiled module of a block. Nothing is compiled before its first call."""
        assert self.backend is not None
        return self.backend.compile(runner.block, graph, self.settings.effort)

    def before_verify(self, runner: RegionRunner) -> None:
        """Tells people which block is next, and lets Cancel through."""
        self.host.check_interrupt()
        self._verifying += 1
        done = sum(r.parity is not None or r.reason is not None for r in self.runners)
        progress = {
            "done": done,
            "total": len(self.runners),
            "path": runner.region.path,
            "seconds": round(time.monotonic() - self._started, 1),
        }
        self.record.update(live=done > 0, state="compiling", progress=progress)

    def verified(self, runner: RegionRunner, parity: Parity) -> None:
        """A block was compared; a block that differs stays uncompiled."""
        if not parity.passed:
            self._unfit(f"{runner.region.path}: {runner.reason}")

    def region_failed(self, runner: RegionRunner, error: Exception) -> None:
        """A block could not be compiled, or its compiled code failed. It runs uncompiled from now on, and so does every
        block that shares its graph."""
        if isinstance(error, self.host.interrupt_error):
            raise error
        assert self.backend is not None
        reason, graph_break = self.backend.explain(error)
        runner.reason = reason
        for graph in runner.graphs.values():
            if graph.graphs == 0:
                graph.failure = reason
                graph.breaks = [graph_break] if graph_break else []
        log.warning("OneDiff: %s runs uncompiled: %s", runner.region.path, reason)
        self._unfit(f"{runner.region.path} cannot be compiled: {reason}")

    def changed(self) -> None:
        """Something that the record shows has changed while sampling."""
        self._publish(live=True)

    # What the wrappers call.

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of one whole sampling (``outer_sample``): what it measured is published at its end."""
        self._steps = 0
        for runner in self.runners:
            runner.skipped = None
        try:
            return executor(*args, **kwargs)
        finally:
            if self._steps:
                self._images.append(self._steps)
                self._publish()
                log.info("OneDiff Compile (node %s): %s", self.record["node"], self.record["summary"])

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        options = transformer_options if transformer_options is not None else {}

        def call() -> Any:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

        if self.given_up is None:
            self.prepare(executor.class_obj.diffusion_model)
            self._foreign = foreign_patches(options)
        if self.given_up is not None:
            return self._run_uncompiled(call)
        return self._run(call, _shape(x, c_crossattn))

    def _run_uncompiled(self, call: Callable[[], Any]) -> Any:
        self._steps += 1
        return call()

    def _run(self, call: Callable[[], Any], shape: tuple) -> Any:
        measured = len(self.times.eager.get(shape, ())) + (0 if self._verifying == 0 else UNCOMPILED_STEPS)
        self.watching = measured < UNCOMPILED_STEPS
        self.active = not self.watching
        self.dirty = self.ran_region = self.ran_compiled = False
        if self.watching:
            self.record.update(live=True, state="measuring", progress=None)
        self.memory.start()
        try:
            with swapped_forwards([runner.bind() for runner in self.runners]):
                result, milliseconds = self.stopwatch.time(call)
        except Exception as error:
            if isinstance(error, self.host.interrupt_error) or self.watching or not self.ran_compiled:
                raise
            return self._rerun_uncompiled(call, error)
        self._steps += 1
        self._measure(shape, milliseconds)
        return result

    def _rerun_uncompiled(self, call: Callable[[], Any], error: Exception) -> Any:
        """Compiled code failed in a block that ran before, whose inputs it may have overwritten: the step starts again,
        uncompiled."""
        assert self.backend is not None
        reason, _ = self.backend.explain(error)
        self._give_up(f"compiled code failed: {reason}")
        return self._run_uncompiled(call)

    # Before the first step.

    def prepare(self, diffusion_model: nn.Module) -> None:
        """Chooses the backend, checks the model and finds its regions; again when another node changed its blocks."""
        blocks = [(path, id(module)) for path, module in diffusion_model.named_modules()]
        if blocks != self._blocks:
            self._started = time.monotonic()
            self.record.update(state="checking", progress=None)
            self._blocks = blocks
            self._find_regions(diffusion_model)
            self._choose_backend()
            self._publish()

    def _find_regions(self, diffusion_model: nn.Module) -> None:
        sites = find_sites(diffusion_model)
        self.report = check_model(diffusion_model, len(sites))
        scope = self.settings.scope if self.settings.scope == "attention" else "blocks"
        regions = find_regions(diffusion_model, sites, scope)
        self._sites_of = {
            region.path: [s.module for s in sites if s.path.startswith(f"{region.path}.")] for region in regions
        }
        self.runners = [RegionRunner(self, region, self._check_reason(region.path)) for region in regions]
        parameters = sum(p.numel() for p in diffusion_model.parameters())
        dtype = next((p.dtype for p in diffusion_model.parameters()), None)
        self.record.update(
            model={
                "class": type(diffusion_model).__name__,
                "parameters": parameters,
                "dtype": str(dtype).removeprefix("torch."),
                "device": str(self.device),
            },
            check=self.report.as_dict(),
        )
        if not self.runners:
            self._give_up("no block of this model has a form that can be compiled on its own")

    def _check_reason(self, path: str) -> str | None:
        errors = self.report.under(path) if self.report else []
        return f"{errors[0].path} ({errors[0].where}) {errors[0].what}" if errors else None

    def _choose_backend(self) -> None:
        if self.given_up is not None:
            return
        try:
            self.backend, reason = choose_backend(self.settings.backend, self.device)
        except BackendUnavailable as error:
            self._backend_record(None, error.reason)
            self._give_up(error.reason)
            return
        if self.settings.scope == "model":
            reason += " Scope “model” is not there yet: compiled block by block."
        self._backend_record(self.backend.name, reason)
        broken = [runner for runner in self.runners if runner.reason]
        if broken:
            self._unfit(f"{broken[0].region.path} cannot be compiled: {broken[0].reason}")

    def _backend_record(self, used: str | None, reason: str) -> None:
        version = package_version("torch") if used == "inductor" else package_version(used or "")
        self.record.update(
            backend={"requested": self.settings.backend, "used": used, "version": version, "reason": reason}
        )

    # After each step.

    def _measure(self, shape: tuple, milliseconds: float) -> None:
        if not self.ran_region:
            return  # a caching node skipped the model
        if self.watching:
            self.times.add(shape, milliseconds, compiled=False)
            self.peaks["eager_peak_mb"] = self.memory.read()
            return
        if self.dirty:
            self.times.last.append(round(milliseconds, 2))
        elif self.ran_compiled:
            self.times.add(shape, milliseconds, compiled=True)
            self.peaks["compiled_peak_mb"] = self.memory.read()
        self._drop_if_slower()
        self._publish(live=True)

    def _drop_if_slower(self) -> None:
        if all(runner.reason is not None for runner in self.runners):
            reasons = {runner.reason for runner in self.runners}
            self._give_up(self.runners[0].reason if len(reasons) == 1 else "no block could be compiled")
            return
        eager, compiled = self._medians()
        if not self.settings.keep_faster or eager is None or compiled is None:
            return
        if len(self.times.comparable()[1]) >= COMPILED_STEPS and compiled > eager * NOISE:
            self.dropped = True
            self._give_up("compiled steps took longer than uncompiled ones")

    def _medians(self) -> tuple[float | None, float | None]:
        eager, compiled = self.times.comparable()
        return median(eager[1:] or eager), median(compiled)

    # Outcomes.

    def _give_up(self, reason: str) -> None:
        """From now on the model runs uncompiled, at no cost."""
        self.given_up = reason
        self.watching = self.active = False
        self._publish()
        if not self.dropped:
            self._unfit(reason)

    def _unfit(self, reason: str) -> None:
        if self.settings.stop_if_unfit:
            self.record.update(state="failed", progress=None)
            raise ModelUnfit(str(self.record["node"]), reason if reason.endswith(".") else f"{reason}.")

    def _state(self) -> str:
        if self.given_up is not None:
            return "uncompiled"
        compiled = [r for r in self.runners if r.parity is not None and r.reason is None]
        if not compiled:
            return "measuring" if self._steps else "idle"
        return "compiled" if len(compiled) == len(self.runners) and not any(r.skipped for r in compiled) else "partial"

    def _publish(self, live: bool = False) -> None:
        from .session_record import fields

        self.record.stamp()
        self.record.update(live=live, **fields(self))


def _shape(x: torch.Tensor, context: torch.Tensor | None) -> tuple:
    """What must be equal for two steps to be compared: the sizes of the latents and of the prompt."""
    return (tuple(x.shape), x.dtype, None if context is None else tuple(context.shape))


def worst_parity(runners: list[RegionRunner]) -> Parity | None:
    """The worst parity of all blocks that were compared."""
    compared = [runner.parity for runner in runners if runner.parity is not None]
    return worst(compared) if compared else None
