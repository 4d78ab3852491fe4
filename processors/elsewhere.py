"""Calls that a processor cannot take and PyTorch's attention computes instead, told before they are made."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

T = TypeVar("T")


@dataclass(frozen=True)
class CallKind:
    """What calls have in common; None is any.

    ``mask`` is (dimensions, whether it is bool), ``above`` a batch that theirs is larger than, ``layout`` whether heads
    come apart, and whether they have to in the result.
    """

    mask: tuple[int, bool] | None = None
    dtype: torch.dtype | None = None
    above: int | None = None
    layout: tuple[bool, bool] | None = None


def is_one_of(
    kinds: tuple[CallKind, ...],
    x: torch.Tensor,
    mask: torch.Tensor | None,
    split_in: bool = False,
    split_out: bool = False,
) -> bool:
    """Whether a call is of one of these kinds. Read from its form alone, so a graph holds one answer."""
    for kind in kinds:
        if kind.mask is not None and (mask is None or (mask.ndim, mask.dtype == torch.bool) != kind.mask):
            continue
        if kind.dtype is not None and x.dtype != kind.dtype:
            continue
        if kind.above is not None and x.shape[0] <= kind.above:
            continue
        if kind.layout is not None and (split_in, split_out) != kind.layout:
            continue
        return True
    return False


def joined(kinds: Iterable[CallKind]) -> tuple[CallKind, ...]:
    """Each kind once, in an order that is the same for equal kinds."""
    return tuple(sorted(set(kinds), key=repr))


class _GivenUp(threading.local):
    def __init__(self) -> None:
        self.calls: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
        self.left: WeakKeyDictionary[nn.Module, Counter[str]] = WeakKeyDictionary()
        self.computing: nn.Module | None = None


_GIVEN_UP = _GivenUp()


def note_given_up(site: nn.Module | None = None) -> None:
    """Counts a call that goes to PyTorch's attention; without its site, at the one that computes now, if any does. Not
    in graphs: each count would need another."""
    if torch.compiler.is_compiling():
        return
    site = site if site is not None else _GIVEN_UP.computing
    if site is not None:
        _GIVEN_UP.calls[site] = _GIVEN_UP.calls.get(site, 0) + 1


def note_left(reason: str) -> None:
    """Counts a call that stays with ComfyUI's attention, at the site that computes now. Not in graphs."""
    if torch.compiler.is_compiling() or _GIVEN_UP.computing is None:
        return
    _GIVEN_UP.left.setdefault(_GIVEN_UP.computing, Counter())[reason] += 1


def left_at(sites: Iterable[nn.Module]) -> Counter[str]:
    """Such calls so far at the modules of some sites, by reason."""
    found: Counter[str] = Counter()
    for site in sites if _GIVEN_UP.left else ():
        found.update(_GIVEN_UP.left.get(site))
    return found


def site_computing() -> nn.Module | None:
    """The module of the site that computes now; None in graphs, and where that is not known."""
    return None if torch.compiler.is_compiling() else _GIVEN_UP.computing


def given_up_at(sites: Iterable[nn.Module]) -> int:
    """Such calls so far at the modules of some sites: one processor may compute for several nodes."""
    return sum([_GIVEN_UP.calls.get(site, 0) for site in sites]) if _GIVEN_UP.calls else 0


def computing(site: nn.Module, call: Callable[[], T]) -> T:
    """What ``call`` gives, which computes a site: an attention function is not told which one."""
    before, _GIVEN_UP.computing = _GIVEN_UP.computing, site
    try:
        return call()
    finally:
        _GIVEN_UP.computing = before
