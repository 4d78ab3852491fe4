"""A patch that knows what it gained: its attention is timed beside what was there, and its steps where nothing is
compiled."""

from __future__ import annotations

import hashlib
import statistics
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from ...measure.stopwatch import Stopwatch
from ...patching.wrappers import ModelCall, further_in
from ..attention_patch import AttentionPatch
from ..contract import Processor
from ..kernels.kernel import Kernel
from ..sites.find import Site
from .decision import Choice, Decision
from .kept import CHOICES, Choices
from .running import running
from .trial import WINS, Measured, Result, Trial

#: Model calls of a sampling that are timed, and one of so many later ones: an accelerator is waited for after each.
TIMED, TIME_EVERY = 8, 11


class MeasuredPatch(AttentionPatch):
    """``told(fields)`` is given what is new of the record's ``patches``. ``model`` is the one that the sites are of.

    Only what computes attention exactly and keeps nothing is run beside what was there, on a part of some calls.
    """

    def __init__(
        self,
        sites: list[Site],
        processor: Processor,
        *args: Any,
        model: nn.Module | None = None,
        told: Callable[[dict[str, Any]], None] = lambda fields: None,
        choices: Choices = CHOICES,
        check_interrupt: Callable[[], None] = lambda: None,
        **kwargs: Any,
    ):
        super().__init__(sites, processor, *args, **kwargs)
        self.told, self.choices, self.check_interrupt = told, choices, check_interrupt
        self.model = model
        self._epoch = choices.epoch
        self.decision: Decision | None = None if model is None else choices.of_model(model, self.key)
        self._shape: Hashable = ()
        self._tries = self.decision is None
        self._calls = 0
        self._steps: dict[Hashable, deque[float]] = {}
        self._first_ms: float | None = None

    @property
    def key(self) -> str:
        """Under which what was measured is remembered with the model."""
        return f"{self.described[0]['processor'] if self.described else ''} {paths_digest(self.sites)}"

    def around(self, call: ModelCall) -> Any:
        inside = super().around
        shape = self._shape = tuple(call.x.shape) if isinstance(call.x, torch.Tensor) else ()
        self._calls += 1
        trial = self._new_trial(call) if self._tries and shape else None
        timed = bool(shape) and not self._compiles(call) and (self._calls <= TIMED or self._calls % TIME_EVERY == 0)
        if trial is None and not timed:
            return inside(call)
        watch = Stopwatch(call.x.device)
        with nullcontext() if trial is None else running(trial):
            result, ms = watch.time(lambda: inside(call))
        if trial is None:
            self._steps.setdefault(shape, deque(maxlen=TIMED)).append(ms)
            return result
        self._tries = False
        self._first_ms = ms - trial.spent
        self._learn(trial)
        return result

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        self._calls = 0
        try:
            return super().sampling(executor, *args, **kwargs)
        finally:
            self.tell()

    def note_uncompiled(self, milliseconds: float) -> None:
        self._steps.setdefault(self._shape, deque(maxlen=TIMED)).append(milliseconds)

    def tell(self) -> None:
        """Tells what is known by now."""
        self.told({"gain": self.gain, "left": self.left})

    @property
    def left(self) -> list[dict[str, Any]]:
        """The record's ``left``: calls of the last sampling that stayed with ComfyUI's attention, and why."""
        return [{"reason": reason, "calls": calls} for reason, calls in self.calls.left.most_common()]

    @property
    def gain(self) -> dict[str, Any] | None:  # type: ignore[override]
        """The record's ``gain``: a model call before and after, from the times of its attention; None where that is
        not known."""
        saved = self.saved_ms
        after = self._after_ms
        if saved is None or after is None or after <= 0 or self.decision is None:
            return None
        before = after + saved
        return {
            "before_ms": round(before, 2),
            "after_ms": round(after, 2),
            "speedup": round(before / after, 3),
            "attention_speedup": None if self.decision.speedup is None else round(self.decision.speedup, 3),
            "computed": True,
        }

    @property
    def saved_ms(self) -> float | None:
        """Milliseconds that a model call takes less."""
        return None if self.decision is None else self.decision.attention_ms[0] - self.decision.attention_ms[1]

    @property
    def _after_ms(self) -> float | None:
        """Milliseconds with the patch of a model call of the size at which attention was looked at."""
        if self.decision is None:
            return None
        later = self._steps.get(self.decision.size)
        if later:
            return statistics.median(later)
        return None if self._first_ms is None else self._first_after(self._first_ms)

    def _first_after(self, ms: float) -> float:
        """What the first model call, in which attention was looked at, would take with the patch."""
        return ms

    @property
    def is_timed(self) -> bool:
        """Whether it is run beside what was there: see above."""
        return isinstance(self.processor, Kernel) and not self.processor.approximate

    def _new_trial(self, call: ModelCall) -> Trial | None:
        if not self.is_timed:
            self._tries = False
            return None
        return self._trial(call, [(self.described[0]["processor"], self.processor)] if self.described else [])

    def _trial(self, call: ModelCall, candidates: list[tuple[str, Any]], **more: Any) -> Trial:
        own = {module: path for path, module in self.calls.own(call.options).items()}
        sigmas = call.options.get("sample_sigmas")
        more.setdefault("named", candidates[0][0] if candidates else None)
        return Trial(
            own,
            candidates,
            call.x.device,
            model_calls=max(1, len(sigmas) - 1) if isinstance(sigmas, torch.Tensor) else 1,
            check_interrupt=self.check_interrupt,
            **more,
        )

    def _learn(self, trial: Trial) -> None:
        if not trial.measured:  # compiled code ran, or another node's attention
            return
        self.decision = _beside(trial.measured)
        self.decision.size = self._shape
        if self.model is not None:
            self.choices.note(self.model, self.key, self.decision)
        self.tell()

    def _compiles(self, call: ModelCall) -> bool:
        """Whether something of this pack that times steps itself runs inside."""
        return any(getattr(wrapper, "times_steps", False) for wrapper in further_in(self, call.options))


def _beside(measured: Mapping[Any, Measured]) -> Decision:
    """What a named kernel gains: its own times, and the ratios to what was there."""
    decision, before, after = Decision(), 0.0, 0.0
    for shape, one in measured.items():
        ratio = next((r.ratio for r in one.results or () if r.ratio is not None and _is_clear(r)), None)
        for path, times in one.ms.items():
            mine = sum(times)
            after, before = after + mine, before + mine * (ratio or 1.0)
            decision.by_site[path] = None
        decision.shapes.append((shape, Choice(None), list(one.ms)))
    decision.attention_ms = before, after
    return decision


def _is_clear(result: Result) -> bool:
    """Whether the times of both ways differ by more than noise."""
    return result.reason is None or (result.ratio or 1.0) <= 1 / WINS


def paths_digest(sites: list[Site]) -> str:
    return hashlib.sha256("\n".join(site.path for site in sites).encode()).hexdigest()[:16]
