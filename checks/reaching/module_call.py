"""What a module was called with, without its tensors."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class TensorSpec:
    """What a module got as an argument: shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class ModuleCall:
    """The arguments of one call, but for what is in its ``transformer_options``: tensors as ``TensorSpec``, None and
    plain values as they are, containers and dataclasses as tuples, others by their class's name."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def described(value: Any) -> Any:
    """An argument as ``ModuleCall`` has it."""
    if isinstance(value, torch.Tensor):
        return TensorSpec(tuple(value.shape), value.dtype)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return tuple(map(described, value.values()))
    if isinstance(value, tuple | list | deque):
        return tuple(map(described, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "__dict__"):
        return tuple(map(described, vars(value).values()))
    return type(value).__name__
