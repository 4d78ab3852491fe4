"""Calls that a processor cannot take and PyTorch's attention computes instead, told before they are made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch


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
