"""What the trials of a model call decide: a kernel, or the host's attention, for each site; and what that gains."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...measure.verdict import NOISE
from .host_call import Shape
from .trial import Measured, Result

#: Share of what a kernel saves that may be lost where it is a little slower than another way.
LOST = 0.02

#: Digits of times behind the point.
_DIGITS = 4


@dataclass(frozen=True)
class Choice:
    """What is taken at one shape: ``kernel``, or None for what was there. ``before_ms`` and ``after_ms`` are those of
    one call, None where it was not timed. ``results`` are those of all candidates."""

    kernel: str | None
    before_ms: float | None = None
    after_ms: float | None = None
    error: float | None = None
    results: tuple[Result, ...] = ()

    def result(self, name: str) -> Result | None:
        return next((one for one in self.results if one.name == name), None)


@dataclass
class Decision:
    """``by_site``: the kernel of each site that was called, None for what was there. ``shapes``: what was chosen for
    which, with the sites. ``attention_ms``: what the attention of all these sites takes in a model call, before and
    after. ``source``: "measured", or "disk" where nothing had to be tried. ``size``: of the model call's latents."""

    by_site: dict[str, str | None] = field(default_factory=dict)
    shapes: list[tuple[Shape, Choice, list[str]]] = field(default_factory=list)
    attention_ms: tuple[float, float] = (0.0, 0.0)
    source: str = "measured"
    spent_ms: float = 0.0
    size: Hashable = None

    @property
    def speedup(self) -> float | None:
        """How many times as fast attention is, None where that is not known."""
        before, after = self.attention_ms
        return before / after if before > 0 and after > 0 else None

    @property
    def kernels(self) -> list[str]:
        """Those in use, the one with the most sites first."""
        names = [name for name in self.by_site.values() if name is not None]
        return sorted(set(names), key=lambda name: (-names.count(name), name))

    @property
    def error(self) -> float | None:
        """The largest error of what was taken."""
        errors = [choice.error for _, choice, _ in self.shapes if choice.kernel and choice.error is not None]
        return max(errors, default=None)


def decide(measured: Mapping[Shape, Measured], kept: Mapping[Shape, Choice]) -> Decision:
    """The choice of each shape, and of each site by the shape that takes it longest.

    A kernel that wins somewhere is also taken where another way would be no faster, or where that would be lost in what
    it saves: blocks then need fewer kinds of compiled code. One that is taken wherever it was tried is taken where
    there was no time to try it, too.
    """
    choices = {shape: kept.get(shape) or _best(one) for shape, one in measured.items()}
    saved = _saved(measured, choices)
    main = max(saved, key=lambda name: saved[name], default=None)
    if main is not None:
        tried = [shape for shape, choice in choices.items() if _is_tried(choice, main)]
        for shape in tried:
            if shape not in kept:
                most_lost = LOST * saved[main] / _calls(measured[shape]) / len(choices)
                choices[shape] = _with(choices[shape], main, most_lost)
        if all(choices[shape].kernel == main for shape in tried):
            for shape in choices.keys() - tried - kept.keys():
                choices[shape] = _untried(choices[shape], main)
    decision = Decision(source="disk" if measured and all(shape in kept for shape in measured) else "measured")
    longest: dict[str, float] = {}
    before = after = 0.0
    for shape, one in measured.items():
        choice = choices[shape]
        decision.shapes.append((shape, choice, list(one.ms)))
        for path, times in one.ms.items():
            calls = max(len(times), 1)
            mine = sum(times) if shape not in kept else (choice.before_ms or 0.0) * calls
            if mine >= longest.get(path, -1.0):
                longest[path], decision.by_site[path] = mine, choice.kernel
            ratio = choice.before_ms / choice.after_ms if choice.before_ms and choice.after_ms else 1.0
            before, after = before + mine, after + mine / (ratio if choice.kernel else 1.0)
    decision.attention_ms = before, after
    return decision


def _best(one: Measured) -> Choice:
    all_ms = [ms for times in one.ms.values() for ms in times]
    before = statistics.median(all_ms) if all_ms else None
    results = tuple(one.results or ())
    won = [r for r in results if r.verdict == "faster"]
    if before is None or not won:
        return Choice(None, before, before, one.hosts_error, results)
    best = max(won, key=lambda r: r.ratio or 0.0)
    after = before / (best.ratio or 1.0) if best.whole_ms is None else best.whole_ms
    if after >= before:
        slower = replace(best, verdict="no faster", reason="no faster")
        return Choice(None, before, before, one.hosts_error, tuple(slower if r is best else r for r in results))
    return Choice(best.name, before, after, best.error, results)


def _saved(measured: Mapping[Shape, Measured], choices: Mapping[Shape, Choice]) -> dict[str, float]:
    """Milliseconds that each kernel saves in a model call where it wins."""
    saved: dict[str, float] = {}
    for shape, choice in choices.items():
        if choice.kernel is not None and choice.before_ms is not None and choice.after_ms is not None:
            gain = _calls(measured[shape]) * (choice.before_ms - choice.after_ms)
            saved[choice.kernel] = saved.get(choice.kernel, 0.0) + gain
    return saved


def _calls(one: Measured) -> int:
    return sum(max(len(times), 1) for times in one.ms.values())


def _is_tried(choice: Choice, name: str) -> bool:
    result = choice.result(name)
    return result is not None and not (result.verdict == "not tried" and result.passing)


def _untried(choice: Choice, main: str) -> Choice:
    """The same with the kernel that is taken at all other shapes, unless another one won here."""
    if choice.kernel is not None:
        return choice
    return replace(choice, kernel=main, after_ms=choice.before_ms)


def _with(choice: Choice, main: str, most_lost: float) -> Choice:
    """The same with the kernel that wins elsewhere, unless that makes a difference here.

    Args:
        most_lost: milliseconds a call that may be lost by it.
    """
    result, before = choice.result(main), choice.before_ms
    if result is None or result.ratio is None or before is None or choice.kernel == main:
        return choice
    after = before / result.ratio if result.whole_ms is None else result.whole_ms
    best = before if choice.after_ms is None else choice.after_ms
    if after > max(best * NOISE, best + most_lost):
        return choice
    return Choice(main, before, after, result.error, choice.results)


def table(decision: Decision, others: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The record's ``choices``: a row a shape, with every candidate and why it was not taken. ``others`` are kernels
    that were not candidates, with the reason."""
    rows = []
    for shape, choice, paths in decision.shapes:
        before, kernel = choice.before_ms, choice.kernel
        host = _candidate("host", "taken", before)
        if kernel is not None:
            is_slower = choice.after_ms is not None and before is not None and choice.after_ms < before
            host.update(verdict="no faster", reason="slower" if is_slower else "no difference at this size")
        tried = [_row(one, choice, before) for one in choice.results]
        if kernel is not None and not _is_tried(choice, kernel):
            tried = [one for one in tried if one["processor"] != kernel]
            tried.append(_candidate(kernel, "taken", reason="not tried at this size: it is taken at the others"))
        rows.append(
            {
                "site": paths[0] if paths else None,
                "sites": len(paths),
                "shape": shape.name,
                "processor": choice.kernel,
                "candidates": [
                    host,
                    *tried,
                    *(_candidate(name, "not tried", reason=why) for name, why in others),
                ],
            }
        )
    return rows


def _row(result: Result, choice: Choice, before: float | None) -> dict[str, Any]:
    ms = result.whole_ms or (before / result.ratio if before is not None and result.ratio else None)
    verdict: str = result.verdict
    reason = result.reason
    if result.name == choice.kernel:
        verdict, reason = "taken", None
    elif result.verdict == "faster":
        verdict, reason = "no faster", "another one is faster"
    return _candidate(result.name, verdict, ms, result.error, reason)


def _candidate(
    name: str, verdict: str, ms: float | None = None, error: float | None = None, reason: str | None = None
) -> dict[str, Any]:
    return {"processor": name, "ms": _rounded(ms), "error": error, "verdict": verdict, "reason": reason}


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, _DIGITS)
