"""What OneFlow does for each operator of a captured graph: one function an ATen operator, whatever its overload.

The functions take OneFlow tensors, numbers and lists as ATen's signature has them, and return what ATen returns. They
are never given a graph's symbolic sizes: those are numbers by then. Results are cast to the dtype that ATen gives by
``lowering``, so that differences in type promotion end there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import oneflow as flow
import torch

from .tensors import DTYPES

Tensor = Any
functional = flow.nn.functional

OPERATORS: dict[str, Callable[..., Any]] = {}


def lowers(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function for ATen operators."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        OPERATORS.update({f"aten.{name}": function for name in names})
        return function

    return register


# Elements.

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
        "silu": functional.silu,
        "relu": functional.relu,
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
        return functional.gelu(x)
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


# Sums over dimensions.


def _dims(x: Tensor, dim: Any) -> list[int]:
    chosen = range(x.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return [d % x.ndim for d in chosen]


@lowers("mean")
def mean(x: Tensor, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    return flow.mean(to_copy(x, dtype), dim=_dims(x, dim), keepdim=keepdim)


@lowers("sum")
def total(x: Tensor, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    return flow.sum(to_copy(x, dtype), dim=_dims(x, dim), keepdim=keepdim)


@lowers("_softmax")
def softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    return flow.softmax(x.to(flow.float32) if half_to_float else x, dim=dim % x.ndim)


@lowers("_safe_softmax")
def safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return flow.softmax(to_copy(x, dtype), dim=dim % x.ndim)


@lowers("native_layer_norm")
def layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple:
    result = functional.layer_norm(x, tuple(shape), eps=eps)
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
    result = flow.reshape(functional.layer_norm(grouped, tuple(grouped.shape[2:]), eps=eps), tuple(x.shape))
    a_channel = (1, channels, *(1,) * (x.ndim - 2))
    if weight is not None:
        result = result * flow.reshape(weight, a_channel)
    return (result if bias is None else result + flow.reshape(bias, a_channel), None, None)


# Products of matrices.


@lowers("mm", "bmm", "matmul")
def matmul(x: Tensor, y: Tensor) -> Tensor:
    return flow.matmul(x, y)


@lowers("addmm", "baddbmm")
def addmm(bias: Tensor, x: Tensor, y: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    product = flow.matmul(x, y)
    return (product if alpha == 1 else product * alpha) + (bias if beta == 1 else bias * beta)


@lowers("convolution")
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    _output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    if transposed:
        raise NotImplementedError("transposed convolution")
    convolve = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[x.ndim]
    return convolve(x, weight, bias, list(stride), list(padding), list(dilation), groups)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> tuple:
    """softmax(q kᵀ · scale + mask) v of (batch, heads, tokens, dim) tensors, as the first of a tuple."""
    scores = flow.matmul(q * (scale if scale is not None else q.shape[-1] ** -0.5), k.transpose(-2, -1))
    if causal:
        future = flow.triu(flow._C.constant(tuple(scores.shape[-2:]), 1, dtype=q.dtype, device=q.device), 1)
        scores = scores - future * 1e4
    if mask is not None:
        scores = scores + mask
    return (flow.matmul(flow.softmax(scores, dim=-1), v), *(None,) * 8)


@lowers("_scaled_dot_product_flash_attention_for_cpu")
def cpu_attention(q, k, v, _dropout=0.0, causal=False, attn_mask=None, scale=None) -> tuple:
    return attention(q, k, v, attn_mask, causal, scale)


@lowers("_scaled_dot_product_flash_attention")
def flash_attention(q, k, v, _dropout=0.0, causal=False, _debug=False, scale=None) -> tuple:
    return attention(q, k, v, None, causal, scale)


@lowers("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")
def efficient_attention(q, k, v, mask, _sums, _dropout=0.0, causal=False, _debug=False, scale=None) -> tuple:
    return attention(q, k, v, mask, causal, scale)


# Shapes.


@lowers("view", "_unsafe_view", "reshape")
def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    return flow.reshape(x, tuple(shape))


@lowers("t")
def t(x: Tensor) -> Tensor:
    return x if x.ndim < 2 else flow.transpose(x, 0, 1)


@lowers("transpose")
def transpose(x: Tensor, a: int, b: int) -> Tensor:
    return flow.transpose(x, a % x.ndim, b % x.ndim)


@lowers("permute")
def permute(x: Tensor, dims: Sequence[int]) -> Tensor:
    return flow.permute(x, tuple(d % x.ndim for d in dims))


@lowers("unsqueeze")
def unsqueeze(x: Tensor, dim: int) -> Tensor:
    return flow.unsqueeze(x, dim % (x.ndim + 1))


@lowers("squeeze")
def squeeze(x: Tensor, dim: Any = None) -> Tensor:
    gone = {d for d in _dims(x, dim) if x.shape[d] == 1}
    return flow.reshape(x, tuple(size for d, size in enumerate(x.shape) if d not in gone))


@lowers("expand")
def expand(x: Tensor, shape: Sequence[int], implicit: bool = False) -> Tensor:
    own = (1,) * (len(shape) - x.ndim) + tuple(x.shape)
    wanted = tuple(size if new == -1 else new for size, new in zip(own, shape, strict=True))
    return x if tuple(x.shape) == wanted else flow.reshape(x, own).expand(*wanted)


@lowers("slice")
def slice_(x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    dim, size = dim % x.ndim, x.shape[dim]
    first, last, step = slice(start, end, step).indices(size)
    if (first, last, step) == (0, size, 1):
        return x
    if first >= last:
        raise NotImplementedError("a slice of nothing")
    return flow.slice(x, [(first, last, step) if d == dim else (0, n, 1) for d, n in enumerate(x.shape)])


@lowers("select")
def select(x: Tensor, dim: int, index: int) -> Tensor:
    dim = dim % x.ndim
    index = index % x.shape[dim]
    return squeeze(slice_(x, dim, index, index + 1), dim)


@lowers("unbind")
def unbind(x: Tensor, dim: int = 0) -> tuple:
    return tuple(select(x, dim, index) for index in range(x.shape[dim % x.ndim]))


@lowers("split")
def split(x: Tensor, size: int, dim: int = 0) -> tuple:
    return tuple(slice_(x, dim, at, at + size) for at in range(0, x.shape[dim % x.ndim], size))


@lowers("split_with_sizes")
def split_with_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> tuple:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(slice_(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True))


@lowers("cat")
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    filled = [x for x in tensors if tuple(x.shape) != (0,)]
    return filled[0] if len(filled) == 1 else flow.cat(filled, dim=dim % filled[0].ndim)


@lowers("stack")
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return cat([unsqueeze(x, dim) for x in tensors], dim % (tensors[0].ndim + 1))


@lowers("repeat")
def repeat(x: Tensor, times: Sequence[int]) -> Tensor:
    x = flow.reshape(x, (1,) * (len(times) - x.ndim) + tuple(x.shape))
    for dim, count in enumerate(times):
        x = cat([x] * count, dim)
    return x


@lowers("constant_pad_nd")
def pad(x: Tensor, sizes: Sequence[int], value: float = 0) -> Tensor:
    for i in range(0, len(sizes), 2):
        dim = x.ndim - 1 - i // 2
        before, after = sizes[i], sizes[i + 1]
        x = slice_(x, dim, -min(before, 0), x.shape[dim] + min(after, 0))
        ends = [_filled(x, [size if d != dim else n for d, size in enumerate(x.shape)], value) for n in (before, after)]
        parts = [part for part in (ends[0], x, ends[1]) if part is not None]
        x = cat(parts, dim)
    return x


def _filled(like: Tensor, shape: list[int], value: float) -> Tensor | None:
    if min(shape) <= 0:
        return None
    return flow._C.constant(tuple(shape), value, dtype=like.dtype, device=like.device)


# Constants.


@lowers("full")
def full(shape: Sequence[int], value: float, dtype=torch.float32, device="cpu", **_layout: Any) -> Tensor:
    return flow._C.constant(tuple(shape), value, dtype=DTYPES[dtype], device=flow.device(str(device)))


@lowers("zeros")
def zeros(shape: Sequence[int], **kwargs: Any) -> Tensor:
    return full(shape, 0, **{name: value for name, value in kwargs.items() if value is not None})


@lowers("ones")
def ones(shape: Sequence[int], **kwargs: Any) -> Tensor:
    return full(shape, 1, **{name: value for name, value in kwargs.items() if value is not None})


# Sizes: plain numbers, which OneFlow has no part in.


@lowers("sym_size")
def sym_size(x: Tensor, dim: int) -> int:
    return x.shape[dim]


@lowers("_assert_scalar", "_assert_tensor_metadata")
def nothing(*_args: Any, **_kwargs: Any) -> None:
    """Dynamo checked that already."""
