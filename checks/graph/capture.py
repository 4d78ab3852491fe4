"""Captures a processor with Dynamo, and calls it as the next steps, sizes and blocks will.

Nothing is compiled: the graph runs as it is. Each capture has a code object of its own, since Dynamo keeps graphs,
recompile limits and observed sizes by code object; the functions inside are inlined and keep nothing.
"""

from __future__ import annotations

import itertools
import re
import threading
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ...patching.tracing.forgetting import end_tracing, forget_traced, sizes_in_tracing
from ...patching.tracing.private import PRIVATE_TRACING
from ...processors import adapt, written
from ..mounted import Mounted
from ..probing.real import MOST_OPERATIONS, operations
from .breaks import Break, break_of, recompile_reason
from .calls import Calls, calls_at
from .code import code
from .kept import kept
from .rehearsal import rehearsal

Occasion = Literal["step", "size", "block"]

#: Files whose lines stand between Dynamo and the processor.
_AROUND = frozenset({__file__, adapt.__code__.co_filename})

_numbers = itertools.count()


class _Counted(threading.local):
    """Graphs of one kind of call, and what torch knew of sizes while it traced them."""

    def __init__(self) -> None:
        self.graphs = 0
        self.sizes: list[Any] = []


_counted = _Counted()


@dataclass(frozen=True)
class Recompile:
    """Every new step, size or block needs another graph. ``line`` as "file.py:12" where Dynamo names one."""

    occasion: Occasion
    reason: str
    line: str | None


@dataclass
class Capture:
    """``plain`` and ``masked`` tell whether the call without and with a mask became one graph, None where it was not
    tried: a call is captured when it runs lines that the other one does not. ``breaks`` are where they did not.
    ``too_long`` is how many operations a call makes, where that is too many to capture it."""

    plain: bool | None = None
    masked: bool | None = None
    breaks: list[Break] = field(default_factory=list)
    recompiles: list[Recompile] = field(default_factory=list)
    too_long: int | None = None


def capture(mounted: Mounted) -> Capture:
    """Evidence: the captures. What does not run uncompiled is not captured, and of sites of a kind in which the same
    lines run, which differ in widths, only the first."""
    found = Capture()
    calls = mounted.evidence(calls_at)
    source, rehearsed = mounted.evidence(code), mounted.evidence(rehearsal)
    if calls is None or rehearsed.plain is None or not torch._dynamo.is_dynamo_supported():
        return found
    if mounted.evidence(operations) > MOST_OPERATIONS:
        found.too_long = mounted.evidence(operations)
        return found
    key = mounted.site.kind, mounted.site.has_projections, rehearsed.plain, rehearsed.masked
    if key in mounted.captured:
        return mounted.captured[key]
    if rehearsed.changing:  # and each step is known to need another graph: once is enough
        others = (other for other in mounted.captured.values() if isinstance(other, Capture))
        known = (recompile for other in others for recompile in other.recompiles)
        found.recompiles = [recompile for recompile in known if recompile.occasion == "step"][:1]
    with (
        kept(written(calls.processor), source.globals, calls.device),
        torch.inference_mode(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # Dynamo's, on what the findings say
        plain, masked = rehearsed.plain, rehearsed.masked
        if masked is None or not masked >= plain:
            found.plain = _captured(mounted, calls, found, source.files, masked=False)
        if masked is not None and not masked < plain:
            found.masked = _captured(mounted, calls, found, source.files, masked=True)
    mounted.captured[key] = found
    return found


def _captured(mounted: Mounted, calls: Calls, found: Capture, files: frozenset[str], masked: bool) -> bool:
    """Whether one kind of call becomes one graph. What would recompile is looked for once."""
    runner, entry = _runner()
    name, first = entry.co_name, calls.arguments(masked=masked)
    _counted.graphs, _counted.sizes = 0, []
    try:
        _call(runner, calls.processor, first)
        if found.plain is None and not found.recompiles:
            found.recompiles += _recompiles(runner, name, calls, first, masked)
    except mounted.attendance.stops:
        raise
    except BaseException as error:  # SystemExit too: what it runs while it traces may raise anything
        stopped = break_of(error, files, _AROUND)
        if stopped not in found.breaks:
            found.breaks.append(stopped)
        return False
    finally:
        for sizes in _counted.sizes:
            end_tracing(sizes)
        forget_traced(entry)
    return True


def _recompiles(runner: Callable, name: str, calls: Calls, first: tuple, masked: bool) -> list[Recompile]:
    """Calls again with the same input, with other sizes, and from other blocks. Once more is not counted: a value may
    be made at the first step, a size be told from a smaller one."""
    recompiles = []
    again: dict[Occasion, list[tuple]] = {"step": [first, first]}
    if calls.attn is not None:
        again["block"] = [(calls.with_other_site(), *first[1:]) for _ in range(2)]
    if len(calls.others) > 1:
        again["size"] = [calls.arguments(sizes, masked) for sizes in calls.others]
    for occasion, arguments in again.items():
        needed = []
        for given in arguments:
            before = _counted.graphs
            _call(runner, calls.processor, given)
            needed.append(_counted.graphs > before)
        if all(needed):
            reason = recompile_reason(name)
            line = re.search(r"([^/\\\s]+\.py:\d+) in ", reason)
            recompiles.append(Recompile(occasion, _told(reason), line[1] if line else None))
            if occasion == "step":
                break  # the others would be compiled anew for the same reason
    return recompiles


def _told(reason: str) -> str:
    """Dynamo's reason for another graph, without names that only it knows."""
    size = re.search(r"size mismatch at index (\d+)\. expected (\d+), actual (\d+)", reason)
    if size:
        return f"dimension {size[1]} of an input is {size[3]} instead of {size[2]}"
    if "check_obj_id" in reason:
        return "it was built for one object and is given another"
    return re.split(r"  #|\n", reason)[0].strip() or "the compiler gave no reason"


def _call(runner: Callable, processor: torch.nn.Module, arguments: tuple) -> None:
    for tensor in arguments:
        if isinstance(tensor, torch.Tensor):  # as blocks' inputs are marked: batch, tokens, and tokens of a mask
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
            torch._dynamo.maybe_mark_dynamic(tensor, 2 if tensor.ndim == 4 else 1)
    # The cache of fake results takes twice as long to fill as what it saves in one capture.
    with PRIVATE_TRACING, torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        runner(processor, arguments)


def _runner() -> tuple[Callable, types.CodeType]:
    """A function to capture calls in, and its code, whose name is unique in this process."""

    def entry(processor: torch.nn.Module, arguments: tuple) -> Any:
        return processor(*arguments)

    entry.__code__ = entry.__code__.replace(co_name=f"onediff_check_{next(_numbers)}")
    with PRIVATE_TRACING:
        return torch.compile(entry, backend=_uncompiled, fullgraph=True), entry.__code__


def _uncompiled(graph: torch.fx.GraphModule, _inputs: list) -> Callable:
    """Dynamo keeps every backend for ever; this one holds nothing."""
    _counted.graphs += 1
    _counted.sizes.append(sizes_in_tracing())
    return graph.forward
