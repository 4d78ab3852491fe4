"""What of a call's arguments tells it from others."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ....patching.calls import Inputs
from ...blocks.tensors import tensors_of

#: Values that may choose a way through the code.
_PLAIN = (bool, int, float, str, type(None))


def shape_of(name: str, inputs: Inputs) -> Hashable:
    """What must be equal for two calls of a method to be compared: sizes and dtypes of all tensors, and plain values.
    Numbers with a point, such as a strength, change what is computed, and not how long it takes."""
    leaves: Any = pytree.tree_leaves(inputs)
    told: list[Hashable] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            told.append((tuple(leaf.shape), leaf.dtype))
        elif isinstance(leaf, _PLAIN) and not isinstance(leaf, float):
            told.append(leaf)
    return (name, tuple(sorted(map(str, inputs[1]))), tuple(told))


def size_of(inputs: Inputs) -> str:
    """The size of what comes in first, as people are shown it: "1×4×64×64"."""
    first = next(iter(tensors_of(inputs)), None)
    return "" if first is None else "×".join(map(str, first.shape))
