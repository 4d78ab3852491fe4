"""Tensors from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import oneflow as flow
import torch

from ..tensors import DTYPES
from .table import Tensor, lowers


@lowers("full")
def full(
    shape: Sequence[int],
    value: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **_layout: Any,
) -> Tensor:
    return flow._C.constant(tuple(shape), value, dtype=DTYPES[dtype], device=flow.device(str(device)))


@lowers("zeros")
def zeros(shape: Sequence[int], **kwargs: Any) -> Tensor:
    return full(shape, 0, **{name: value for name, value in kwargs.items() if value is not None})


@lowers("ones")
def ones(shape: Sequence[int], **kwargs: Any) -> Tensor:
    return full(shape, 1, **{name: value for name, value in kwargs.items() if value is not None})
