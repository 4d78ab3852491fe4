"""Which dimensions of a block's inputs may change from run to run."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Sequence

import torch

from ...checks.reaching.batches import Batched
from ...memo import cached

#: Smaller sizes are heads, groups or the 2x2 of a rotation, not tokens.
MIN_TOKENS = 16

#: The size that Inductor reckons with where a batch may be any.
LIKELY_BATCH = 2

#: Where torch notes on a tensor which sizes may change, and which are unknown to the compiler:
#: torch._dynamo.decorators.maybe_mark_dynamic and mark_unbacked.
_MAY_CHANGE, _UNKNOWN = "_dynamo_weak_dynamic_indices", "_dynamo_unbacked_indices"
_MARKS = (_UNKNOWN, "_dynamo_shape_ids", "_dynamo_hint_overrides", "_specialize_on")

Shape = tuple[int, ...]


def token_counts(shapes: Sequence[Shape]) -> set[int]:
    """Lengths of the sequences among the inputs, and the length of all of them joined (Flux joins text and image).
    A grid of (batch, frames, height, width, channels) is a sequence too."""
    lengths = [shape[1] for shape in shapes if len(shape) == 3 and shape[1] >= MIN_TOKENS]
    grids = [math.prod(shape[1:4]) for shape in shapes if len(shape) == 5]
    return {*lengths, *grids, sum(lengths)} if lengths or grids else set()


@functools.lru_cache(maxsize=4096)
def dynamic_dimensions(shapes: tuple[Shape, ...]) -> tuple[tuple[int, int], ...]:
    """Dimensions that follow the batch, the picture's size or the prompt's length: number of the tensor, dimension.

    The batch from 2 on (torch compiles size 1 apart). Tokens of (batch, tokens, channels), which some models give as
    (tokens, batch, channels); height and width, and frames, of (batch, channels, …, height, width) and of grids of
    tokens such as (frames, height, width, batch, channels); in tables that go with tokens, such as rotary embeddings
    of (1, 1, tokens, dim, 2, 2), the dimension of that length.
    """
    counts = token_counts(shapes)
    found: list[tuple[int, int]] = []
    for number, shape in enumerate(shapes):
        ndim = len(shape)
        if ndim >= 2 and shape[0] > 1:
            found.append((number, 0))
        if ndim == 3 and shape[1] > 1:
            found.append((number, 1))
        elif ndim in (4, 5) and counts.isdisjoint(shape):
            found.extend((number, dim) for dim in range(1 if ndim == 5 else 2, ndim) if shape[dim] > 1)
        elif ndim > 3:
            found.extend((number, dim) for dim in range(1, ndim) if shape[dim] in counts)
    return tuple(found)


@cached
def takes_any_batch() -> bool:
    """Whether torch can compile one graph for every batch, 1 too (2.11 and newer)."""
    return "shape_id" in inspect.signature(torch._dynamo.decorators.mark_unbacked).parameters


def mark_sizes(tensors: Sequence[torch.Tensor], batch: Batched | None) -> None:
    """Marks these dimensions for Dynamo, so that what is compiled first holds for all sizes. A size that a block's code
    fixes stays fixed.

    Args:
        tensors: all that a block is called with.
        batch: those that carry the batch. It is one unknown for all of them, so that the graph holds for a batch of 1
            as well. None: torch compiles that apart.
    """
    carries = [False] * len(tensors) if batch is None else batch
    for tensor, carries_batch in zip(tensors, carries, strict=True):
        marks = tensor.__dict__
        if carries_batch == (_UNKNOWN in marks):
            continue
        if carries_batch:
            marks.get(_MAY_CHANGE, set()).discard(0)
            torch._dynamo.decorators.mark_unbacked(tensor, 0, hint_override=LIKELY_BATCH, shape_id="batch")
        else:  # a block of another kind was called with it
            for name in _MARKS:
                marks.pop(name, None)
    for number, dim in dynamic_dimensions(tuple([tensor.shape for tensor in tensors])):
        tensor = tensors[number]
        if (dim or not carries[number]) and dim not in tensor.__dict__.get(_MAY_CHANGE, ()):
            torch._dynamo.maybe_mark_dynamic(tensor, dim)
