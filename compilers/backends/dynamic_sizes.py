"""Which dimensions of a block's inputs may change from run to run."""

from __future__ import annotations

from collections.abc import Iterator

import torch

#: Smaller sizes are heads, groups or the 2x2 of a rotation, not tokens.
MIN_TOKENS = 16


def token_counts(tensors: list[torch.Tensor]) -> set[int]:
    """Lengths of the sequences among the inputs, and the length of all of them joined (Flux joins text and image).
    A grid of (batch, frames, height, width, channels) is a sequence too."""
    lengths = [t.shape[1] for t in tensors if t.ndim == 3 and t.shape[1] >= MIN_TOKENS]
    grids = [t.shape[1:4].numel() for t in tensors if t.ndim == 5]
    return {*lengths, *grids, sum(lengths)} if lengths or grids else set()


def dynamic_dimensions(tensors: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, int]]:
    """Dimensions that follow the batch, the picture's size or the prompt's length.

    The batch from 2 on (torch compiles size 1 apart). Tokens of (batch, tokens, channels), which some models give as
    (tokens, batch, channels); height and width, and frames, of (batch, channels, …, height, width) and of grids of
    tokens such as (frames, height, width, batch, channels); in tables that go with tokens, such as rotary embeddings
    of (1, 1, tokens, dim, 2, 2), the dimension of that length.
    """
    counts = token_counts(tensors)
    for tensor in tensors:
        if tensor.ndim >= 2 and tensor.shape[0] > 1:
            yield tensor, 0
        if tensor.ndim == 3 and tensor.shape[1] > 1:
            yield tensor, 1
        elif tensor.ndim in (4, 5) and counts.isdisjoint(tensor.shape):
            first = 1 if tensor.ndim == 5 else 2
            yield from ((tensor, dim) for dim in range(first, tensor.ndim) if tensor.shape[dim] > 1)
        elif tensor.ndim > 3:
            yield from ((tensor, dim) for dim in range(1, tensor.ndim) if tensor.shape[dim] in counts)


def mark_dynamic_dimensions(tensors: list[torch.Tensor]) -> None:
    """Marks these dimensions for Dynamo, so that what is compiled first holds for all sizes. A size that a block's code
    fixes stays fixed.

    Args:
        tensors: all that a block is called with.
    """
    for tensor, dim in dynamic_dimensions(tensors):
        torch._dynamo.maybe_mark_dynamic(tensor, dim)
