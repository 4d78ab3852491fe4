"""Inputs in the one memory layout that a block is compiled for."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from ..blocks.tensors import map_tensors


@lru_cache(maxsize=4096)
def plain_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor: (2, 3, 4) has (12, 4, 1)."""
    strides, stride = [], 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= max(size, 1)
    return tuple(reversed(strides))


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is laid out as the one that a block is compiled with. Few dimensions may be in any layout."""
    return tensor.ndim < 3 or tensor.stride() == plain_strides(tensor.shape)


def in_plain_layout(inputs: Any) -> tuple[Any, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The inputs with transposed and sliced tensors made contiguous; and those tensors, each with its copy.

    Dynamo compiles for one layout, and often the first block of a model gets a transposed tensor, the others a
    contiguous one. Blocks write into their inputs: afterwards the copies belong back into the originals. A repeated
    tensor stays one, and nothing can be written into it.
    """
    copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    def plain(leaf: torch.Tensor) -> torch.Tensor:
        if is_plain(leaf):
            return leaf
        if leaf.is_contiguous():  # dimensions of size 1 have any stride
            return leaf.as_strided(leaf.shape, plain_strides(leaf.shape))
        repeated = [dim for dim, stride in enumerate(leaf.stride()) if stride == 0 and leaf.shape[dim] > 1]
        if repeated:
            once = leaf
            for dim in repeated:
                once = once.narrow(dim, 0, 1)
            return once.contiguous().expand(leaf.shape)
        copies.append((leaf, leaf.contiguous()))
        return copies[-1][1]

    return map_tensors(plain, inputs), copies


def lists_of(before: Any, after: Any) -> list[tuple[list, list, list]]:
    """The lists among the arguments of a call, in which a block may change items: each with the one that took its place
    for the call, and what was in that."""
    pairs = [*zip(before[0], after[0], strict=True), *((before[1][name], after[1][name]) for name in before[1])]
    return [(ours, other, list(other)) for ours, other in pairs if type(ours) is list and ours is not other]


def put_back(lists: list[tuple[list, list, list]]) -> None:
    """Changes the caller's lists as the block changed those that took their place."""
    for ours, other, was in lists:
        if len(other) != len(was) or any(a is not b for a, b in zip(other, was, strict=True)):
            kept = {id(item): number for number, item in enumerate(was)}
            ours[:] = [ours[kept[id(item)]] if id(item) in kept else item for item in other]
