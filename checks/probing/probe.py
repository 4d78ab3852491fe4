"""Calls a processor on fake tensors, which have shapes and no memory: what comes back, and what raises."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ...patching.random_numbers import numbers_kept
from ..mounted import Mounted
from .bench import Inputs, Raised, call, cases_of, expected_shape, geometry, make_inputs, raised, site_stand_in
from .cases import Case
from .standin import Make, stand_in
from .trial import Unavailable, bench

_FAKE_TENSORS = "torch._subclasses.fake_tensor"


@dataclass(frozen=True)
class Form:
    """What can be told of a tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str
    layout: torch.layout


@dataclass(frozen=True)
class Outcome:
    """What one case gave: the result's form and the one that it should have; ``got`` is a type's name where the result
    is no tensor."""

    case: Case
    expected: Form
    got: Form | str


@dataclass
class Probed:
    """All outcomes, and the errors with the cases in which they came."""

    tried: tuple[Case, ...]
    outcomes: list[Outcome] = field(default_factory=list)
    errors: dict[Raised, list[Case]] = field(default_factory=dict)


def probe(mounted: Mounted) -> Probed:
    """Evidence: every case without numbers. A pairwise cover runs on fake tensors, which know their device; where every
    combination is asked for, the others run on meta tensors, which are ten times as fast and do not.

    What raises is run once more on real tensors, where that is possible: reading the numbers of a fake tensor raises,
    too, and is no fault of the processor's shapes.
    """
    few, every = cases_of(mounted, thorough=False), cases_of(mounted)
    rest = [case for case in every if case not in set(few)] if mounted.thorough else []
    probed = Probed((*few, *rest))
    suspects: list[_Suspect] = []
    with torch.no_grad(), numbers_kept(mounted.device), _unlogged(_FAKE_TENSORS):
        with FakeTensorMode(allow_non_fake_inputs=True):
            _try(mounted, few, mounted.device, probed, suspects)
        with torch.device("meta"):
            _try(mounted, rest, torch.device("meta"), probed, suspects)
    first: dict[tuple[type, str | None], Raised | None] = {}
    for suspect in suspects:
        place = (type(suspect.error), suspect.said.where)
        if place not in first:
            first[place] = _confirmed(mounted, suspect, probed)
        confirmed = first[place]
        if confirmed is not None:
            probed.errors.setdefault(confirmed, []).append(suspect.case)
    return probed


@dataclass(frozen=True)
class _Suspect:
    """A case that raised without numbers."""

    case: Case
    error: BaseException
    said: Raised


def _try(
    mounted: Mounted, tried: Sequence[Case], device: torch.device, probed: Probed, suspects: list[_Suspect]
) -> None:
    attention: dict[torch.dtype, nn.Module | None] = {}
    heads = geometry(mounted.site).heads
    for case in tried:
        make = fakes(case.dtype, device)
        if case.dtype not in attention and mounted.level == "module":
            attention[case.dtype] = site_stand_in(mounted.site, make)
        inputs = make_inputs(mounted, case, lambda shape, dtype: torch.empty(shape, dtype=dtype, device=device))
        try:
            processor = stand_in(mounted.processor, make)
            result = call(processor, mounted.level, attention.get(case.dtype), heads, case, inputs)
        except mounted.attendance.stops:
            raise
        except BaseException as error:  # SystemExit too: whatever forward raises is its author's to read
            suspects.append(_Suspect(case, error.with_traceback(None), raised(error, mounted.module)))
        else:
            probed.outcomes.append(_outcome(mounted, case, inputs, device, result))


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    """Keeps a logger's messages back: PyTorch logs a traceback of its own for each error that is caught here."""
    logger = logging.getLogger(name)

    def nothing(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


def _outcome(mounted: Mounted, case: Case, inputs: Inputs, device: torch.device, result: Any) -> Outcome:
    expected = Form(expected_shape(mounted, case, inputs), case.dtype, device.type, torch.strided)
    got = type(result).__name__
    if isinstance(result, torch.Tensor):
        return Outcome(case, expected, Form(tuple(result.shape), result.dtype, result.device.type, result.layout))
    return Outcome(case, expected, got)


def _confirmed(mounted: Mounted, suspect: _Suspect, probed: Probed) -> Raised | None:
    """What the case raises with numbers, None when nothing. Where it cannot run with numbers, an error of the user's
    own counts, and one that comes from tensors without numbers does not."""
    try:
        with bench(mounted, suspect.case) as real:
            inputs = real.inputs(suspect.case.mask)
            probed.outcomes.append(
                _outcome(mounted, suspect.case, inputs, real.device, real.run(inputs, real.processor()))
            )
    except Unavailable:
        return None if type(suspect.error).__module__.startswith("torch.") else suspect.said
    except mounted.attendance.stops:
        raise
    except BaseException as error:
        return raised(error, mounted.module)
    return None


def fakes(dtype: torch.dtype, device: torch.device) -> Make:
    """Makes tensors without memory, floating point ones in this dtype."""

    def make(tensor: torch.Tensor) -> torch.Tensor:
        own = dtype if tensor.is_floating_point() else tensor.dtype
        return torch.empty(tensor.shape, dtype=own, device=device)

    return make
