"""Samples a MODEL without the pack's nodes, patched, and patched and compiled, by turns, on the same noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import comfy.sample
import comfy.utils
import torch

from ..compilers import BlockCounter, Session, Settings, StepClock
from ..compilers.session.record_fields import model_fields
from ..patching.wrappers import attach, attached, detach
from ..processors.attention_patch import AttentionPatch
from ..speed_report.difference import difference
from ..speed_report.figures import CompileCost, Sampling, SpeedReport, shared_works
from ..status import Record
from ..status.machine import machine
from .example_inputs import find_batched
from .server import host

SEED, SAMPLER, SCHEDULER = 0, "euler", "simple"

#: Samplings of each way, by turns, so that a machine that gets busy slows both; more when they have few steps.
ROUNDS = 2
LEAST_STEPS = 8

#: Steps before any is counted: the weights are loaded, and the session compiles, compares and times.
WARM_UP, COMPILE_STEPS, COMPILE_TRIES = 2, 8, 3


def with_session(model: Any, session: Session) -> Any:
    """A clone of the model that samples with this session, and with no other."""
    clone = model.clone()
    attach(clone, session)
    return clone


def without_session(model: Any) -> Any:
    """A clone of the model that nothing of this pack compiles; patched processors stay."""
    clone = model.clone()
    detach(clone, Session)
    return clone


def without_ours(model: Any) -> Any:
    """A clone of the model as it is without any of this pack's nodes."""
    clone = without_session(model)
    detach(clone, AttentionPatch)
    return clone


class BothWays:
    """The samplings behind one report. ``record`` is kept informed while they run."""

    def __init__(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        steps: int,
        cfg: float,
        file: str | None = None,
    ):
        self.file = file
        self.model, self.positive, self.negative, self.latent = model, positive, negative, latent
        self.steps, self.cfg = steps, cfg
        found = attached(model, Session)
        self.settings = found[-1].settings if found else Settings()
        self.from_node = bool(found)
        self.rounds = max(ROUNDS, -(-LEAST_STEPS // steps))
        self.session: Session | None = None
        self._done = self._total = 0
        self._bar: Any = None

    def report(self, record: Record) -> SpeedReport:
        """Samples, and returns what it showed."""
        device = self.model.load_device
        # The session must stay compiled to be timed, and a model that cannot be compiled is a result too.
        settings = replace(self.settings, keep_faster=False, stop_if_unfit=False)
        find = find_batched(self.model)
        self.session = session = Session(settings, _relay(record), host(), device, find_batched=find)
        session.measuring.by_turns = False
        session.skips_classes_without_gain, session.plans = self.settings.keep_faster, False
        plain, compiled = without_session(self.model), with_session(self.model, session)
        self._total = WARM_UP + max(COMPILE_STEPS, self.steps) + 2 * self.rounds * self.steps
        self._bar = comfy.utils.ProgressBar(self._total)

        self._sample(plain, WARM_UP, StepClock(device), record)
        self._compile(compiled, session, record)
        without = without_ours(self.model) if self._is_patched else None
        self._total += self.rounds * self.steps * (without is not None)
        samplings, latents, calls, left_out = self._by_turns(plain, compiled, session, record, without)
        self._bar.update_absolute(self._total, self._total)
        return self._summed_up(session, samplings, latents, calls, left_out)

    def _compile(self, compiled: Any, session: Session, record: Record) -> None:
        for _ in range(COMPILE_TRIES):
            self._sample(compiled, max(COMPILE_STEPS, self.steps), _clock(session), record)
            if session.settled:
                break

    @property
    def _is_patched(self) -> bool:
        """Whether this pack computes attention anywhere: ``auto`` has decided by now."""
        return any(patch.sites for patch in attached(self.model, AttentionPatch))

    def _by_turns(
        self, plain: Any, compiled: Any, session: Session, record: Record, without: Any = None
    ) -> tuple[list[Sampling], dict[bool, list[list[torch.Tensor]]], int, int]:
        samplings: list[Sampling] = []
        latents: dict[bool, list[list[torch.Tensor]]] = {False: [], True: []}
        calls = left_out = 0
        for _ in range(self.rounds):
            if without is not None:
                counter = _counter(session)
                clock = StepClock(session.device, work=counter.work)
                self._sample(without, self.steps, clock, record, counter)
                if clock.steps_ms:
                    samplings.append(Sampling(False, tuple(clock.steps_ms), tuple(clock.works), without=True))
            for way in (False, True):
                if way and session.uncompiled_because is not None:
                    continue
                counts = None if way else _counter(session)
                clock = StepClock(session.device, work=counts.work) if counts else _clock(session)
                result = self._sample(compiled if way else plain, self.steps, clock, record, counts)
                calls, left_out = clock.calls, left_out + clock.left_out
                if clock.steps_ms:
                    samplings.append(Sampling(way, tuple(clock.steps_ms), tuple(clock.works)))
                    latents[way].append(result)
        return samplings, latents, calls, left_out

    def _sample(
        self, model: Any, steps: int, clock: StepClock, record: Record, counter: BlockCounter | None = None
    ) -> list[torch.Tensor]:
        """One sampling of a clone, timed; its final latents."""
        timed = model.clone()
        attach(timed, clock)
        if counter is not None:
            attach(timed, counter)
        image = self.latent["samples"]
        ratios = ("downscale_ratio_spacial", "downscale_ratio_temporal")
        known = {name: self.latent[name] for name in ratios if self.latent.get(name) is not None}
        image = comfy.sample.fix_empty_latent_channels(timed, image, **known)
        noise = comfy.sample.prepare_noise(image, SEED, self.latent.get("batch_index"))
        result = comfy.sample.sample(
            timed,
            noise,
            steps,
            self.cfg,
            SAMPLER,
            SCHEDULER,
            self.positive,
            self.negative,
            image,
            noise_mask=self.latent.get("noise_mask"),
            callback=self._callback(clock, record),
            disable_pbar=True,
            seed=SEED,
        )
        return list(result.unbind()) if result.is_nested else [result]

    def _callback(self, clock: StepClock, record: Record) -> Callable[..., None]:
        def after_step(_step: int, _denoised: Any, _x: Any, _total: int) -> None:
            clock.step_ended()
            self._done = min(self._done + 1, self._total)
            record.update(live=True, state="measuring", progress={"done": self._done, "total": self._total})
            self._bar.update_absolute(self._done, self._total)  # raises when the user pressed Cancel

        return after_step

    def _summed_up(
        self,
        session: Session,
        samplings: list[Sampling],
        latents: dict[bool, list[list[torch.Tensor]]],
        calls: int,
        left_out: int,
    ) -> SpeedReport:
        if not any(not sampling.compiled and not sampling.without for sampling in samplings):
            raise ValueError("no step called the model: remove what skips all steps (a caching node, denoise)")
        compared = shared_works(samplings)
        both = bool(compared)
        plain, compiled = latents[False], latents[True]
        notes = []
        if not self.from_node:
            notes.append("The model has no OneDiff Compile node; it was compiled with that node's default settings.")
        if left_out:
            notes.append(f"{left_out} steps of compiled samplings compiled something or ran uncompiled; not counted.")
        if len(compared) > 1:
            notes.append("Another node skips blocks in some steps: those that ran the same blocks were compared.")
        return SpeedReport(
            samplings=tuple(samplings),
            steps=self.steps,
            cost=_cost(session) if both else None,
            error=difference(compiled[0], plain[0]) if both else None,
            repeat=difference(plain[1], plain[0]) if len(plain) > 1 else None,
            reason=None if both else session.uncompiled_because or _why_not_compared(samplings),
            model={
                **model_fields(self.model.get_model_object("diffusion_model"), session.device)["model"],
                "file": self.file,
            },
            machine=machine(session.device, session.host.version),
            backend=session.record["backend"] or {},
            setup={
                "latent": [list(tensor.shape) for tensor in plain[0]],
                "pixels": _pixels(self.model, plain[0]),
                "processors": sorted({site["processor"] for site in session.patched}),
                "seed": SEED,
                "sampler": SAMPLER,
                "scheduler": SCHEDULER,
                "cfg": self.cfg,
                "rounds": self.rounds,
                "model_calls_a_step": round(calls / self.steps, 2),
                "scope": self.settings.scope,
                "effort": self.settings.effort,
            },
            notes=tuple(notes),
            measured_at=datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
        )


def _why_not_compared(samplings: list[Sampling]) -> str:
    if any(sampling.compiled for sampling in samplings):
        return "no compiled step ran the same blocks as an uncompiled one: another node skips some."
    return "no step ran compiled."


def _pixels(model: Any, latents: list[torch.Tensor]) -> list[int] | None:
    """Width and height of the pictures, as the model's latent format has it; None for several latents, or a sound."""
    ratio = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", None)
    if len(latents) != 1 or not ratio or latents[0].ndim < 4:
        return None
    height, width = latents[0].shape[-2:]
    return [width * ratio, height * ratio]


def _clock(session: Session) -> StepClock:
    """Times the steps that a session runs compiled."""
    return StepClock(session.device, lambda: session.step_was_compiled, lambda: session.measuring.work)


def _counter(session: Session) -> BlockCounter:
    return BlockCounter(session.blocks, session.model.called_directly if session.model else ())


def _cost(session: Session) -> CompileCost:
    compile_ = session.record["compile"]
    return CompileCost(
        seconds=sum(graph.seconds for graph in session.compiler.baseline),
        fresh=compile_["seconds"] > 0,
        blocks=compile_["regions"],
        blocks_compiled=compile_["regions_compiled"],
        graphs=compile_["graphs"],
        cache=compile_["cache"],
    )


def _relay(record: Record) -> Record:
    """A record for the session, of which only the progress of checking and compiling is shown."""

    def show(inner: Record) -> None:
        if inner["state"] in ("checking", "compiling"):
            record.update(live=True, state=inner["state"], progress=inner["progress"])

    return Record(record["workflow"], record["node"], show)
