"""What sampling a model both ways showed: times, what compiling cost, when it is earned back, and the difference.

Everything here is arithmetic on what was measured; who measures is no concern of it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..measure.verdict import verdict
from ..status.summary import longer
from .difference import Difference


@dataclass(frozen=True)
class Sampling:
    """One sampling: milliseconds of its steps in order, all uncompiled or all compiled. ``works`` says of each which
    blocks of the model it ran, where that is known. ``without``: it ran without any of the pack's nodes."""

    compiled: bool
    steps_ms: tuple[float, ...]
    works: tuple[Hashable, ...] = ()
    without: bool = False

    def by_work(self) -> list[tuple[Hashable, float]]:
        """The steps, each with the blocks that it ran."""
        return list(zip(self.works or (None,) * len(self.steps_ms), self.steps_ms, strict=True))


def shared_works(samplings: Sequence[Sampling]) -> dict[Hashable, int]:
    """What both uncompiled and compiled steps ran, and how many of either: of the way that has fewer.

    Uncompiled steps that ran a, a, b and compiled ones that ran a, b, b share one a and one b.
    """
    ours = [s for s in samplings if not s.without]
    ran = [Counter(work for s in ours if s.compiled is way for work, _ in s.by_work()) for way in (False, True)]
    return dict(ran[0] & ran[1])


@dataclass(frozen=True)
class Times:
    """Step times of one way, in milliseconds. Half of the steps lie between ``low_ms`` and ``high_ms``."""

    median_ms: float
    low_ms: float
    high_ms: float
    steps: int

    @classmethod
    def of(cls, steps_ms: Sequence[float]) -> Times:
        """Times of one step or more: ``Times.of([4, 2, 3, 1])`` has the median 2.5.

        Raises:
            ValueError: when there is no step.
        """
        if not steps_ms:
            raise ValueError("no step was timed")
        if len(steps_ms) == 1:
            return cls(steps_ms[0], steps_ms[0], steps_ms[0], 1)
        low, median, high = statistics.quantiles(steps_ms, n=4, method="inclusive")
        return cls(median, low, high, len(steps_ms))

    def as_dict(self) -> dict[str, float | int]:
        return {
            "median_ms": round(self.median_ms, 3),
            "low_ms": round(self.low_ms, 3),
            "high_ms": round(self.high_ms, 3),
            "steps": self.steps,
        }


@dataclass(frozen=True)
class CompileCost:
    """What compiling took. ``fresh`` is False when all graphs were there from an earlier sampling; their seconds are
    those that they took then."""

    seconds: float
    fresh: bool
    blocks: int
    blocks_compiled: int
    graphs: int
    cache: str | None = None


@dataclass(frozen=True)
class SpeedReport:
    """Everything that the report says.

    ``samplings`` are in the order in which they ran, and hold at least one uncompiled one. ``cost`` and ``error`` are
    None where nothing was compiled; ``reason`` then says why. ``repeat`` is the difference between two uncompiled
    samplings, which shows what is noise of the machine.
    """

    samplings: tuple[Sampling, ...]
    steps: int
    cost: CompileCost | None = None
    error: Difference | None = None
    repeat: Difference | None = None
    reason: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    backend: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    measured_at: str | None = None

    def steps_ms(self, *, compiled: bool) -> list[float]:
        """Timed steps of one way; of those that ran what no step of the other way did, none."""
        shared = shared_works(self.samplings)
        steps = [step for s in self._ours if s.compiled is compiled for step in s.by_work()]
        return [ms for work, ms in steps if work in shared or (not shared and not compiled)]

    @property
    def _ours(self) -> list[Sampling]:
        return [sampling for sampling in self.samplings if not sampling.without]

    @property
    def without(self) -> Times | None:
        """Steps without any of the pack's nodes, that ran what those with them ran; None where there is no patch."""
        steps = [step for s in self.samplings if s.without for step in s.by_work()]
        works = {work for s in self._ours for work, _ in s.by_work()}
        same = [ms for work, ms in steps if work in works]
        return Times.of(same or [ms for _, ms in steps]) if steps else None

    @property
    def patch_speedup(self) -> float | None:
        """How many times as fast the patched attention alone makes a step."""
        return self.without.median_ms / self.uncompiled.median_ms if self.without else None

    @property
    def total_speedup(self) -> float | None:
        """How many times as fast all nodes together make a step: without them, against the way that is kept; where it
        is not clear what compiling does, against patched attention alone."""
        if self.without is None:
            return None
        compiled = self.compiled
        kept = compiled if compiled and self.outcome != "slower" and not self.noisy else self.uncompiled
        return self.without.median_ms / kept.median_ms

    @property
    def uncompiled(self) -> Times:
        return self._times(compiled=False)

    @property
    def compiled(self) -> Times | None:
        return self._times(compiled=True) if self.steps_ms(compiled=True) else None

    def _times(self, *, compiled: bool) -> Times:
        """Times of one way. Where a caching node skips blocks in some steps, the median is the mean of the medians of
        steps that ran the same blocks, each with the same share both ways: one more cheap step must not look like a
        gain."""
        times, shared = Times.of(self.steps_ms(compiled=compiled)), shared_works(self.samplings)
        if len(shared) < 2:
            return times
        steps = [step for s in self._ours if s.compiled is compiled for step in s.by_work()]
        medians = [count * statistics.median(ms for ran, ms in steps if ran == work) for work, count in shared.items()]
        return replace(times, median_ms=sum(medians) / sum(shared.values()))

    @property
    def speedup(self) -> float | None:
        """Uncompiled median by compiled median: 1.62 means that 1.62 times as many steps fit into the same time."""
        return self.uncompiled.median_ms / self.compiled.median_ms if self.compiled else None

    @property
    def picture_seconds(self) -> tuple[float, float | None]:
        """Seconds that the steps of one picture take, uncompiled and compiled."""
        compiled = self.compiled
        return (
            self.uncompiled.median_ms * self.steps / 1e3,
            compiled.median_ms * self.steps / 1e3 if compiled else None,
        )

    @property
    def breakeven_images(self) -> float | None:
        """Pictures after which compiling is earned back; None when it never is, or when the gain is within noise.

        30 s of compiling and pictures of 3 s instead of 5 s give 15.
        """
        uncompiled, compiled = self.picture_seconds
        if self.cost is None or compiled is None or self.outcome != "faster" or self.noisy:
            return None
        return self.cost.seconds / (uncompiled - compiled)

    @property
    def outcome(self) -> str:
        """``faster``, ``slower``, ``same`` (within noise) or ``uncompiled``."""
        return "uncompiled" if self.speedup is None else verdict(self.speedup)

    @property
    def noisy(self) -> bool:
        """Whether the middle halves of both ways overlap, so that the ratio of the medians says little: steps of 90 to
        130 ms against 100 to 140 ms. Steps that ran different blocks, as under a caching node, are no noise."""
        compiled, uncompiled = self.compiled, self.uncompiled
        if compiled is None or self.outcome == "same" or len(shared_works(self.samplings)) > 1:
            return False
        fast, slow = (compiled, uncompiled) if self.outcome == "faster" else (uncompiled, compiled)
        return fast.high_ms >= slow.low_ms

    @property
    def patch_noisy(self) -> bool:
        """The same of steps without any node and with patched attention."""
        without, patched = self.without, self.uncompiled
        if without is None or verdict(without.median_ms / patched.median_ms) == "same":
            return False
        fast, slow = (patched, without) if patched.median_ms < without.median_ms else (without, patched)
        return fast.high_ms >= slow.low_ms

    @property
    def verdict(self) -> str:
        """The result in one sentence, or two where attention is patched."""
        if self.without is None or self.total_speedup is None:
            return self._of_compiling
        took = f"without these nodes a step takes {duration(self.without.median_ms)}."
        who = "Patched attention makes" if self.noisy or self.compiled is None else "All nodes together make"
        told = {"faster": f"{who} it {self.total_speedup:.2f} times as fast: {took}"}
        told["slower"] = f"With all nodes, steps take {longer(self.total_speedup)}: {took}"
        return (
            f"{told.get(verdict(self.total_speedup), f'All nodes together gain nothing: {took}')} {self._of_compiling}"
        )

    @property
    def _of_compiling(self) -> str:
        compiled = self.compiled
        if compiled is None:
            return f"Nothing was compiled: {self.reason}" if self.reason else "Nothing was compiled."
        assert self.speedup is not None
        both = f"{duration(compiled.median_ms)} a step against {duration(self.uncompiled.median_ms)} uncompiled."
        if self.noisy:
            return f"Noisy, no clear difference ({self.speedup:.2f}×): {both}"
        if self.outcome == "faster":
            return f"Compiled, the model is {self.speedup:.2f} times as fast: {both}"
        if self.outcome == "slower":
            return f"Compiled steps take {longer(self.speedup)}: {both}"
        return f"Compiling makes no difference here: {both}"

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON takes it. What was not measured is None."""
        uncompiled_s, compiled_s = self.picture_seconds
        compiled, breakeven = self.compiled, self.breakeven_images
        return {
            "verdict": self.verdict,
            "outcome": self.outcome,
            "speedup": _round(self.speedup),
            "noisy": self.noisy,
            "without": self.without.as_dict() if self.without else None,
            "patch_speedup": _round(self.patch_speedup),
            "total_speedup": _round(self.total_speedup),
            "patch_noisy": self.patch_noisy,
            "uncompiled": self.uncompiled.as_dict(),
            "compiled": compiled.as_dict() if compiled else None,
            "steps": self.steps,
            "picture_seconds": {"uncompiled": _round(uncompiled_s), "compiled": _round(compiled_s)},
            "compile": None if self.cost is None else {**vars(self.cost), "seconds": round(self.cost.seconds, 2)},
            "breakeven_images": _round(breakeven, 1),
            "error": self.error.as_dict() if self.error else None,
            "repeat_error": self.repeat.as_dict() if self.repeat else None,
            "samplings": [
                {
                    "compiled": sampling.compiled,
                    "without": sampling.without,
                    "steps_ms": [round(ms, 3) for ms in sampling.steps_ms],
                }
                for sampling in self.samplings
            ],
            "reason": self.reason,
            "setup": self.setup,
            "model": self.model,
            "backend": self.backend,
            "machine": self.machine,
            "measured_at": self.measured_at,
            "notes": list(self.notes),
        }


def duration(milliseconds: float) -> str:
    """Milliseconds for people, with three figures: "0.84 ms", "14.8 ms", "148 ms", "1.48 s", "148 s"."""
    if milliseconds < 999.5:
        return f"{_figures(milliseconds)} ms"
    return f"{_figures(milliseconds / 1e3)} s"


def _figures(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _round(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
