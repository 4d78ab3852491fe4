"""Element by element."""

from __future__ import annotations

import math
from typing import Any

import oneflow as flow
import torch

from ..tensors import DTYPES
from .table import OPERATORS, Tensor, lowers

OPERATORS |= {
    f"aten.{name}": function
    for name, function in {
        "neg": flow.neg,
        "exp": flow.exp,
        "rsqrt": flow.rsqrt,
        "sqrt": flow.sqrt,
        "reciprocal": flow.reciprocal,
        "sin": flow.sin,
        "cos": flow.cos,
        "tanh": flow.tanh,
        "sigmoid": flow.sigmoid,
        "silu": flow.nn.functional.silu,
        "relu": flow.nn.functional.relu,
        "abs": flow.abs,
        "log": flow.log,
        "pow": flow.pow,
        "eq": flow.eq,
        "ne": flow.ne,
        "lt": flow.lt,
        "le": flow.le,
        "gt": flow.gt,
        "ge": flow.ge,
        "maximum": flow.maximum,
        "minimum": flow.minimum,
        "where": flow.where,
    }.items()
}


@lowers("add", "add_")
def add(x: Tensor, y: Any, alpha: float = 1) -> Tensor:
    return x + (y if alpha == 1 else y * alpha)


@lowers("sub", "sub_")
def sub(x: Tensor, y: Any, alpha: float = 1) -> Tensor:
    return x - (y if alpha == 1 else y * alpha)


@lowers("rsub")
def rsub(x: Tensor, y: Any, alpha: float = 1) -> Tensor:
    return sub(y, x, alpha)


@lowers("mul", "mul_")
def mul(x: Tensor, y: Any) -> Tensor:
    return x * y


@lowers("div", "div_")
def div(x: Tensor, y: Any) -> Tensor:
    return x / y


@lowers("addcmul", "addcmul_")
def addcmul(x: Tensor, a: Tensor, b: Tensor, value: float = 1) -> Tensor:
    return add(x, a * b, value)


@lowers("gelu")
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "none":
        return flow.nn.functional.gelu(x)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1 + flow.tanh(inner))


@lowers("clamp")
def clamp(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    return flow.clamp(x, low, high)


@lowers("_to_copy")
def to_copy(x: Tensor, dtype: torch.dtype | None = None, **_layout: Any) -> Tensor:
    return x if dtype is None else x.to(DTYPES[dtype])


@lowers("clone", "alias", "detach", "lift_fresh_copy", "contiguous")
def same(x: Tensor, **_layout: Any) -> Tensor:
    return x
