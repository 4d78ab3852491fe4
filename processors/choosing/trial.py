"""Tries kernels on the attention of one model call: how long each takes beside what was there, how far it is off."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from ...measure.stopwatch import Stopwatch
from ...patching.user_errors import is_no_memory
from .host_call import HostCall, Shape

#: Milliseconds that all trials of a model call may take in any case.
BUDGET = 2_000.0

#: Beyond this share of the sampling, or ``FLOOR`` milliseconds, only as much as what was found already saves in it.
SHARE, FLOOR = 0.05, 100.0

#: Model calls of a sampling in which another whole call of the host's attention is no matter.
LONG = 10

#: What is tried takes about so many milliseconds with what was there: a part of a longer call.
PART_MS = 80.0

#: Runs by turns of both ways, and as many when they already agree on a large difference.
ROUNDS, CLEAR_ROUNDS, CLEAR = 5, 3, 1.2

#: What is so many times as slow twice, also when it comes second, is dropped, unless it takes less than ``SHORT_MS``.
FAR_SLOWER, SHORT_MS = 1.5, 10.0

#: A kernel wins if it is so many times as fast.
WINS = 1.05

#: Largest error of what is said to be exact, by dtype, or twice the host's own, but never more than ``MOST_EXACT``; and
#: of what is approximate.
EXACT = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 6e-3, torch.float64: 1e-5}
MOST_EXACT = 8e-3
APPROXIMATE = 0.1

#: What came out of trying a kernel; the first could be taken.
Verdict = Literal["faster", "no faster", "wrong", "failed", "not tried"]

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """How a kernel did at one shape. ``ratio`` is the host's time by its time on a part of a call, None where it was
    not timed; ``whole_ms`` what it takes for a whole call, where that was looked at; ``reason``: why it is not taken,
    None when it could be. ``passing``: what kept it may be gone the next time."""

    name: str
    verdict: Verdict
    ratio: float | None = None
    error: float | None = None
    reason: str | None = None
    passing: bool = False
    whole_ms: float | None = None


@dataclass
class Measured:
    """What was seen of calls of one shape. ``ms``: of each call, by site; of the host's attention, or of the processor
    where one was ``named``. ``path`` is that of the first. ``hosts_error`` is what the host's own is off. ``asked``: it
    was looked for what was found at an earlier start."""

    path: str
    ms: dict[str, list[float]] = field(default_factory=dict)
    results: list[Result] | None = None
    hosts_error: float | None = None
    asked: bool = False


class Trial:
    """Of one model call.

    Args:
        sites: modules of the sites that it looks at, with their paths.
        candidates: names and kernels, in the order in which they are tried.
        named: the kernel that people named; it computes, and the host's attention is only timed beside it.
        known: what is computed at a shape that is known already: a kernel, or None for the host's attention. Raises
            KeyError for others.
        earlier: results at a shape of which not all is known yet; these kernels are not tried again.
        model_calls: how many calls like this one the sampling makes.
    """

    def __init__(
        self,
        sites: Mapping[nn.Module, str],
        candidates: Sequence[tuple[str, Any]],
        device: torch.device,
        *,
        named: str | None = None,
        known: Callable[[Shape], Any] | None = None,
        earlier: Callable[[Shape], Sequence[Result]] = lambda shape: (),
        model_calls: int = 1,
        check_interrupt: Callable[[], None] = lambda: None,
    ):
        self.sites, self.candidates, self.named = sites, candidates, named
        self.known, self.earlier, self.model_calls = known, earlier, model_calls
        self.measured: dict[Shape, Measured] = {}
        self.spent = 0.0
        self._saved = 0.0
        self.device = device
        self._watch = Stopwatch(device)
        self._check_interrupt = check_interrupt
        self._began = self._ends = time.perf_counter()
        self.hosts: Callable | None = None

    def attend(self, site: nn.Module, call: HostCall, processor: Callable[..., torch.Tensor]) -> torch.Tensor:
        """The result of a call at a site, and what there is to be learned from it."""
        path, shape = self.sites[site], call.shape
        self.hosts = call.function
        measured = self.measured.setdefault(shape, Measured(path))
        computes = call.by_host if self.named is None else lambda: call.by(processor)
        if self.known is not None:
            try:
                kernel = self.known(shape)
            except KeyError:
                pass
            else:
                measured.ms.setdefault(path, [])
                return call.by_host() if kernel is None else call.by(kernel)
        result, ms = self._watch.time(computes)
        measured.ms.setdefault(path, []).append(ms)
        if measured.results is None and self.may_go_on:
            self._try_all(measured, call, ms)
        elif measured.results is None and not measured.asked:
            measured.results, measured.asked = self._earlier_of(shape) or None, True
        self._saved += _saving(measured, ms) if self.named is None else 0.0
        return result

    @property
    def may_go_on(self) -> bool:
        """Whether another shape may be tried."""
        if self.spent >= BUDGET:
            return False
        so_far = (time.perf_counter() - self._began) * 1e3 - self.spent
        return self.spent < max(SHARE * so_far * self.model_calls, self._saved * (self.model_calls - 1), FLOOR)

    def _spend(self, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        self._ends = begun + (BUDGET - self.spent) / 1e3
        try:
            return work()
        finally:
            self.spent += (time.perf_counter() - begun) * 1e3

    def _try_all(self, measured: Measured, call: HostCall, ms: float) -> None:
        measured.results = self._earlier_of(call.shape)
        earlier = {one.name for one in measured.results}
        if len(earlier) == len(self.candidates):
            return
        try:
            part, measured.hosts_error = self._spend(lambda: self._part_of(call, ms))
        except Exception:  # no memory for it, or no such operation: the host has computed the call already
            self._device_freed()
            return
        for number, (name, kernel) in enumerate(one for one in self.candidates if one[0] not in earlier):
            self._check_interrupt()
            unfit = type(kernel).unfit(part.call)
            if unfit is not None:
                result = Result(name, "not tried", reason=unfit.why)
            elif number and self.spent >= BUDGET:
                result = Result(name, "not tried", reason="not tried: no time was left for it", passing=True)
            else:
                result = self._spend(partial(self._tried, name, kernel, part, measured.hosts_error))
            measured.results.append(result)
        if part.call.q.numel() < call.call.q.numel():
            self._time_whole(measured.results, call, ms)

    def _earlier_of(self, shape: Shape) -> list[Result]:
        """What was found of the candidates at an earlier start."""
        names = {name for name, _ in self.candidates}
        return [one for one in self.earlier(shape) if one.name in names]

    def _time_whole(self, results: list[Result], call: HostCall, ms: float) -> None:
        """What won on a part, once on the whole call: what the host allocates there may cost it far more. Only where
        that takes less than it saves, or, to say what a named kernel gains, in long samplings."""
        best = max((one for one in results if one.verdict == "faster"), key=lambda one: one.ratio or 0.0, default=None)
        if best is None or best.ratio is None or best.whole_ms is not None:
            return
        kernel = dict(self.candidates)[best.name]
        if self.named is None:
            expected = ms / best.ratio
            is_worth = expected < max((ms - expected) * (self.model_calls - 1), FLOOR)
        else:
            expected, is_worth = ms * best.ratio, self.model_calls >= LONG
        behind = self.device.type != "cpu"  # there the first call of a shape looks up or tunes what others use
        if not is_worth or self.spent + (1 + behind) * expected > BUDGET:
            return
        way = call.by_host if self.named is not None else partial(call.by, kernel)
        try:
            with kernel.while_sampling(self.device):
                if behind:
                    self._spend(way)
                _, took = self._spend(lambda: self._watch.time(way))
        except Exception:  # no memory for the whole call
            self._device_freed()
            return
        now = replace(best, whole_ms=took) if self.named is None else replace(best, ratio=took / max(ms, 1e-6))
        results[results.index(best)] = now

    def _part_of(self, call: HostCall, ms: float) -> tuple[HostCall, float]:
        """A part of the call, and what the host's own attention is off there."""
        part = call.part(min(1.0, PART_MS / max(ms, 1e-3)))
        return part, part.error(part.by_host())

    def _device_freed(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _tried(self, name: str, kernel: Any, part: HostCall, hosts_error: float) -> Result:
        low = part.more.get("low_precision_attention", True) is False
        if kernel.approximate and low:
            return Result(name, "not tried", reason="the model asks for full precision there")
        try:
            with kernel.while_sampling(self.device):
                out = part.by(kernel)  # what is compiled or looked up at the first call is not timed
                error = part.error(out)
                most = APPROXIMATE if kernel.approximate else _most_exact(part.call.q.dtype, hosts_error)
                if not error <= most:
                    finite = _plain(error)
                    why = "it gives NaN or Inf" if finite is None else f"it is wrong ({finite:.1e} from float32)"
                    return Result(name, "wrong", error=finite, reason=why)
                ratios = self._by_turns(part, kernel)
        except Exception as raised:  # a kernel may raise anything, out of memory among others
            self._device_freed()
            why = f"it raises {type(raised).__name__}: {str(raised)[:200]}"
            return Result(name, "failed", reason=why, passing=is_no_memory(raised))
        ratio = statistics.median(ratios)
        wins = ratio >= WINS and sum(one > 1 for one in ratios) >= len(ratios) - 1
        return Result(name, "faster", ratio, error) if wins else Result(name, "no faster", ratio, error, "no faster")

    def _by_turns(self, part: HostCall, kernel: Any) -> list[float]:
        """The host's time by the kernel's, of runs one soon after the other; which comes first changes."""
        ratios: list[float] = []
        while len(ratios) < ROUNDS:
            ways = [part.by_host, lambda: part.by(kernel)]
            order = (0, 1) if len(ratios) % 2 == 0 else (1, 0)
            took = {way: self._watch.time(ways[way])[1] for way in order}
            ratios.append(took[0] / max(took[1], 1e-6))
            if len(ratios) == 2 and max(ratios) < 1 / FAR_SLOWER and took[1] > SHORT_MS:
                break
            low, high = min(ratios), max(ratios)
            if len(ratios) >= CLEAR_ROUNDS and (low > CLEAR or high < 1 / CLEAR):
                break
            if len(ratios) >= 2 and time.perf_counter() > self._ends:
                break
        return ratios


def calls_of(measured: Measured) -> Counter[str]:
    """How often each site made a call of this shape."""
    return Counter({path: len(ms) for path, ms in measured.ms.items()})


def _saving(measured: Measured, ms: float) -> float:
    """Milliseconds that the best kernel saves at a call which took the host so long."""
    ratios = [one.ratio for one in measured.results or () if one.verdict == "faster" and one.ratio is not None]
    return ms * (1 - 1 / max(ratios)) if ratios else 0.0


def _most_exact(dtype: torch.dtype, hosts_error: float) -> float:
    return max(EXACT.get(dtype, 1e-3), min(2 * hosts_error, MOST_EXACT))


def _plain(error: float) -> float | None:
    return error if math.isfinite(error) else None
