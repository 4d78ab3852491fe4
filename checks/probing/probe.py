"""Calls a processor on fake tensors, which have shapes and no memory: what comes back, and what raises."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from ...patching.leftovers import Leftovers
from ...processors.random_numbers import numbers_kept
from ..mounted import Mounted
from .bench import (
    AXES,
    Inputs,
    Raised,
    call,
    cases_of,
    expected_shape,
    geometry,
    make_inputs,
    odd,
    raised,
    site_stand_in,
    usual,
)
from .cases import Case
from .real import MOST_OPERATIONS, Unavailable, bench, operations
from .standin import Make, stand_in

_FAKE_TENSORS = "torch._subclasses.fake_tensor"
_META = torch.device("meta")


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
    """What each case gave, an outcome or an error, None where that cannot be told without numbers. ``tried`` are those
    that a finding counts; others are looked at when somebody asks."""

    mounted: Mounted
    tried: tuple[Case, ...]
    results: dict[Case, Outcome | Raised | None] = field(default_factory=dict)
    _places: dict[tuple[type, str | None], Raised | None] = field(default_factory=dict)
    _on_meta: dict[torch.dtype, nn.Module | None] = field(default_factory=dict)
    _leftovers: Leftovers = field(default_factory=Leftovers)

    @property
    def outcomes(self) -> list[Outcome]:
        found = (self.results.get(case) for case in self.tried)
        return [result for result in found if isinstance(result, Outcome)]

    @property
    def errors(self) -> dict[Raised, list[Case]]:
        """Each error with the cases in which it came."""
        errors: dict[Raised, list[Case]] = {}
        for case in self.tried:
            result = self.results.get(case)
            if isinstance(result, Raised):
                errors.setdefault(result, []).append(case)
        return errors

    def fails(self, case: Case) -> bool:
        """Whether a case raises or gives another form of result than it should."""
        if case not in self.results:
            self.look([case], _META)
        result = self.results[case]
        return isinstance(result, Raised) or (isinstance(result, Outcome) and result.got != result.expected)

    def reduced(self, case: Case) -> Case:
        """A failing case, as ordinary as it can be while it fails."""
        for axis in AXES:
            if axis in odd(self.mounted, case):
                tamer = usual(self.mounted, case, axis)
                case = tamer if self.fails(tamer) else case
        return case

    def look(self, cases: Iterable[Case], device: torch.device) -> None:
        """Calls the processor in these cases, without numbers.

        What raises is run once more on real tensors, where that is possible: reading the numbers of a fake tensor
        raises, too, and is no fault of the processor's shapes. That is done once a place.
        """
        suspects = []
        attention: dict[torch.dtype, nn.Module | None] = self._on_meta if device == _META else {}
        mode = _META if device == _META else FakeTensorMode(allow_non_fake_inputs=True)
        seen = _KnownAttention(self._leftovers)
        with torch.no_grad(), numbers_kept(self.mounted.device), _unlogged(_FAKE_TENSORS), mode, seen:
            for case in cases:
                result = self._tried(case, device, attention, seen)
                if isinstance(result, _Suspect):
                    suspects.append(result)
                else:
                    self.results[case] = result
        self._leftovers.let_go()
        for suspect in suspects:
            place = (type(suspect.error), suspect.said.where)
            self.results[suspect.case] = None
            if place not in self._places:
                self._places[place] = self._confirmed(suspect)
            if self._places[place] is not None:
                self.results[suspect.case] = self._places[place]

    def _tried(
        self, case: Case, device: torch.device, attention: dict[torch.dtype, nn.Module | None], seen: _KnownAttention
    ) -> Outcome | _Suspect:
        mounted, make = self.mounted, fakes(case.dtype, device)
        if case.dtype not in attention and mounted.level == "module":
            attention[case.dtype] = site_stand_in(mounted.site, make)
        inputs = make_inputs(mounted, case, lambda shape, dtype: torch.empty(shape, dtype=dtype, device=device))
        try:
            processor = stand_in(mounted.processor, make)
            heads = geometry(mounted.site).heads
            with seen.noting():
                result = call(processor, mounted.level, attention.get(case.dtype), heads, case, inputs)
        except mounted.attendance.stops:
            raise
        except BaseException as error:  # SystemExit too: whatever forward raises is its author's to read
            return _Suspect(case, BaseException.with_traceback(error, None), raised(error, mounted))
        return _outcome(mounted, case, inputs, device, result)

    def _confirmed(self, suspect: _Suspect) -> Raised | None:
        """What the case raises with numbers, None when nothing. Where it cannot run with numbers, an error of the
        user's own counts, and one that comes from tensors without numbers does not."""
        mounted, case = self.mounted, suspect.case
        try:
            with bench(mounted, case) as real:
                inputs = real.inputs(case.mask)
                run = partial(real.run, inputs, real.processor())
                self.results[case] = _outcome(mounted, case, inputs, real.device, run())
        except Unavailable:
            return None if type(suspect.error).__module__.startswith("torch.") else suspect.said
        except mounted.attendance.stops:
            raise
        except BaseException as error:
            return raised(error, mounted)
        return None


#: Forms of results of scaled_dot_product_attention, by what it was called with; so many at most.
_known: dict[Hashable, tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}
_MOST_KNOWN = 10_000


class _KnownAttention(TorchFunctionMode):
    """Remembers what PyTorch's attention makes of tensors without numbers: on meta tensors it is composed of some
    thirty operations, half of the time of a check. What raises is called each time. While it is ``noting``,
    ``leftovers`` are told what is made."""

    def __init__(self, leftovers: Leftovers) -> None:
        super().__init__()
        self._leftovers = leftovers
        self._made: list[weakref.ref[torch.Tensor]] | None = None

    @contextmanager
    def noting(self) -> Iterator[None]:
        self._made = self._leftovers.made
        try:
            yield
        finally:
            self._made = None

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        is_attention = function is F.scaled_dot_product_attention
        result = self._attention(args, kwargs or {}) if is_attention else function(*args, **(kwargs or {}))
        if self._made is not None and isinstance(result, torch.Tensor):
            self._made.append(weakref.ref(result))
        return result

    def _attention(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        function = F.scaled_dot_product_attention
        given = [*((str(i), value) for i, value in enumerate(args)), *sorted(kwargs.items())]
        if not all(type(v) in (bool, float, type(None)) or (type(v) is torch.Tensor and v.is_meta) for _, v in given):
            return function(*args, **kwargs)
        key = tuple((name, _form(value)) for name, value in given)
        known = _known.get(key)
        if known is None:
            result = function(*args, **kwargs)
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            known = _known[key] = result.shape, result.stride(), result.dtype
        shape, stride, dtype = known
        return torch.empty_strided(shape, stride, dtype=dtype, device=_META)


def _form(value: Any) -> Hashable:
    return (value.shape, value.stride(), value.dtype) if isinstance(value, torch.Tensor) else (type(value), value)


def probe(mounted: Mounted) -> Probed:
    """Evidence: every case without numbers. Those in the model's dtype run on fake tensors, which know their device:
    what an ordinary run brings, and each mask; on a CPU one of each layout. The others run on meta tensors, ten times
    as fast, which do not. Of a processor that makes very many operations only those of the model's dtype are tried."""
    first = [case for case in cases_of(mounted, thorough=False) if case.dtype == mounted.dtype]
    is_long = bool(first) and mounted.evidence(operations) > MOST_OPERATIONS
    every = first if is_long else [*cases_of(mounted, thorough=False), *cases_of(mounted)]
    tried = tuple(dict.fromkeys(every))
    on_fakes = first if mounted.device.type != "cpu" else _smallest_of_each_layout(first)
    probed = Probed(mounted, tried)
    probed.look(on_fakes, mounted.device)
    probed.look([case for case in tried if case not in set(on_fakes)], _META)
    return probed


def _smallest_of_each_layout(cases: Iterable[Case]) -> list[Case]:
    """The first without a mask, for each way in which q, k and v come: tensors of a processor land on a CPU by
    themselves, so that nothing but a device that it names can be another one."""
    return list({case.layout: case for case in reversed(list(cases)) if case.mask is None}.values())


@dataclass(frozen=True)
class _Suspect:
    """A case that raised without numbers."""

    case: Case
    error: BaseException
    said: Raised


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


def fakes(dtype: torch.dtype, device: torch.device) -> Make:
    """Makes tensors without memory, floating point ones in this dtype."""

    def make(tensor: torch.Tensor) -> torch.Tensor:
        own = dtype if tensor.is_floating_point() else tensor.dtype
        return torch.empty(tensor.shape, dtype=own, device=device)

    return make
