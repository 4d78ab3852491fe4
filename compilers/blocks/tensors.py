"""The tensors among a block's inputs, also those in dataclasses (Flux 2 and Chroma pass modulations so)."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any

import torch
from torch.utils import _pytree as pytree

#: Types of values that hold no tensor, as most values beside tensors are.
_WITHOUT = frozenset({bool, int, float, str, type(None), torch.dtype, torch.device})


def tensors_of(inputs: Any) -> list[torch.Tensor]:
    """All tensors, in the order of the inputs. Written out, because it is asked before each compiled block: pytree
    takes several times as long."""
    found: list[torch.Tensor] = []
    _collect((inputs,), found)
    return found


def _collect(values: Iterable[Any], found: list[torch.Tensor]) -> None:
    for value in values:
        kind = type(value)
        if kind is torch.Tensor:
            found.append(value)
        elif kind in _WITHOUT:
            continue
        elif kind is tuple or kind is list:
            _collect(value, found)
        elif kind is dict:
            _collect(value.values(), found)
        elif isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, tuple | list | deque):
            _collect(value, found)
        elif isinstance(value, dict):
            _collect(value.values(), found)
        elif _holds_fields(value):
            _collect(vars(value).values(), found)


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], inputs: Any) -> Any:
    """The same structure with ``function`` applied to every tensor. What holds no tensor is not copied."""

    def mapped(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return function(leaf)
        if not _holds_fields(leaf) or not tensors_of(leaf):
            return leaf
        other = copy.copy(leaf)
        for name, value in vars(leaf).items():
            object.__setattr__(other, name, map_tensors(function, value))
        return other

    return pytree.tree_map(mapped, inputs)


def _holds_fields(leaf: Any) -> bool:
    return dataclasses.is_dataclass(leaf) and not isinstance(leaf, type) and hasattr(leaf, "__dict__")


def overlapping(inputs: Any) -> bool:
    """Whether two different tensors among the inputs hold the same memory: what is written into one shows in the other.
    One tensor given twice is not meant, nor views that lie beside each other, such as chunks."""
    views = list({id(tensor): tensor for tensor in tensors_of(inputs) if tensor.numel()}.values())
    return any(
        a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() and _overlap(a, b)
        for a, b in combinations(views, 2)
        if a.layout == b.layout == torch.strided
    )


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype:
        return True  # a view as another dtype: not looked at closely
    touched = torch.zeros(a.untyped_storage().nbytes() // a.element_size(), dtype=torch.bool)
    _as_view_of(touched, a).fill_(True)
    return bool(_as_view_of(touched, b).any())


def _as_view_of(memory: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """The elements of ``memory`` where those of a view are in its own, repeated ones once."""
    sizes = [1 if stride == 0 else size for size, stride in zip(view.shape, view.stride(), strict=True)]
    return memory.as_strided(sizes, view.stride(), view.storage_offset())
