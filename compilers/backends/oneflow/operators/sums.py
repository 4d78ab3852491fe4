"""Over dimensions: sums, means, softmax, norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import oneflow as flow
import torch

from .elements import to_copy
from .table import Tensor, lowers


def dims_of(x: Tensor, dim: Any) -> list[int]:
    """The dimensions that an operator works on, counted from the front; all for None and []."""
    chosen = range(x.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return [d % x.ndim for d in chosen]


@lowers("mean")
def mean(x: Tensor, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    return flow.mean(to_copy(x, dtype), dim=dims_of(x, dim), keepdim=keepdim)


@lowers("sum")
def total(x: Tensor, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    return flow.sum(to_copy(x, dtype), dim=dims_of(x, dim), keepdim=keepdim)


@lowers("_softmax")
def softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    return flow.softmax(x.to(flow.float32) if half_to_float else x, dim=dim % x.ndim)


@lowers("_safe_softmax")
def safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return flow.softmax(to_copy(x, dtype), dim=dim % x.ndim)


@lowers("native_layer_norm")
def layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple:
    result = flow.nn.functional.layer_norm(x, tuple(shape), eps=eps)
    if weight is not None:
        result = result * weight
    return (result if bias is None else result + bias, None, None)


@lowers("native_group_norm")
def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch: int,
    channels: int,
    _size: int,
    groups: int,
    eps: float,
) -> tuple:
    grouped = flow.reshape(x, (batch, groups, -1))
    result = flow.reshape(flow.nn.functional.layer_norm(grouped, tuple(grouped.shape[2:]), eps=eps), tuple(x.shape))
    a_channel = (1, channels, *(1,) * (x.ndim - 2))
    if weight is not None:
        result = result * flow.reshape(weight, a_channel)
    return (result if bias is None else result + flow.reshape(bias, a_channel), None, None)
