"""Views, pieces and how they are put together; and sizes: plain numbers, which OneFlow has no part in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import oneflow as flow

from .sums import dims_of
from .table import Tensor, lowers


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
    gone = {d for d in dims_of(x, dim) if x.shape[d] == 1}
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


@lowers("sym_size")
def sym_size(x: Tensor, dim: int) -> int:
    return x.shape[dim]


@lowers("_assert_scalar", "_assert_tensor_metadata")
def nothing(*_args: Any, **_kwargs: Any) -> None:
    """Dynamo checked that already."""
