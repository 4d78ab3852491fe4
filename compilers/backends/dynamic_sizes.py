"""Which dimensions of a block's inputs may change from run to run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import torch

from ...checks.reaching.batches import Batched
from ...memo import cached

#: Smaller sizes are heads, groups or the 2x2 of a rotation, not tokens.
MIN_TOKENS = 16

#: The size that Inductor reckons with where a batch may be any.
LIKELY_BATCH = 2

#: Where torch notes on a tensor that a size of it is unknown to the compiler: torch._dynamo.decorators.mark_unbacked.
_MARKS = ("_dynamo_unbacked_indices", "_dynamo_shape_ids", "_dynamo_hint_overrides", "_specialize_on")


def token_counts(tensors: Sequence[torch.Tensor]) -> set[int]:
    """Lengths of the sequences among the inputs, and the length of all of them joined (Flux joins text and image).
    A grid of (batch, frames, height, width, channels) is a sequence too."""
    lengths = [t.shape[1] for t in tensors if t.ndim == 3 and t.shape[1] >= MIN_TOKENS]
    grids = [t.shape[1:4].numel() for t in tensors if t.ndim == 5]
    return {*lengths, *grids, sum(lengths)} if lengths or grids else set()


def dynamic_dimensions(tensors: Sequence[torch.Tensor]) -> Iterator[tuple[int, int]]:
    """Dimensions that follow the batch, the picture's size or the prompt's length: number of the tensor, dimension.

    The batch from 2 on (torch compiles size 1 apart). Tokens of (batch, tokens, channels), which some models give as
    (tokens, batch, channels); height and width, and frames, of (batch, channels, …, height, width) and of grids of
    tokens such as (frames, height, width, batch, channels); in tables that go with tokens, such as rotary embeddings
    of (1, 1, tokens, dim, 2, 2), the dimension of that length.
    """
    counts = token_counts(tensors)
    for number, tensor in enumerate(tensors):
        if tensor.ndim >= 2 and tensor.shape[0] > 1:
            yield number, 0
        if tensor.ndim == 3 and tensor.shape[1] > 1:
            yield number, 1
        elif tensor.ndim in (4, 5) and counts.isdisjoint(tensor.shape):
            first = 1 if tensor.ndim == 5 else 2
            yield from ((number, dim) for dim in range(first, tensor.ndim) if tensor.shape[dim] > 1)
        elif tensor.ndim > 3:
            yield from ((number, dim) for dim in range(1, tensor.ndim) if tensor.shape[dim] in counts)


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
        if carries_batch:
            tensor.__dict__.get("_dynamo_weak_dynamic_indices", set()).discard(0)
            torch._dynamo.decorators.mark_unbacked(tensor, 0, hint_override=LIKELY_BATCH, shape_id="batch")
        elif _MARKS[0] in tensor.__dict__:  # a block of another kind was called with it
            for name in _MARKS:
                tensor.__dict__.pop(name, None)
    for number, dim in dynamic_dimensions(tensors):
        if dim or not carries[number]:
            torch._dynamo.maybe_mark_dynamic(tensors[number], dim)
