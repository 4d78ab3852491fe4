"""Products of matrices, convolutions and attention."""

from __future__ import annotations

from collections.abc import Sequence

import oneflow as flow

from .table import Tensor, lowers


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
    convolve = {3: flow.nn.functional.conv1d, 4: flow.nn.functional.conv2d, 5: flow.nn.functional.conv3d}[x.ndim]
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
def cpu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    _dropout: float = 0.0,
    causal: bool = False,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple:
    return attention(q, k, v, attn_mask, causal, scale)


@lowers("_scaled_dot_product_flash_attention")
def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    _dropout: float = 0.0,
    causal: bool = False,
    _debug: bool = False,
    scale: float | None = None,
) -> tuple:
    return attention(q, k, v, None, causal, scale)


@lowers("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")
def efficient_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    _sums: bool,
    _dropout: float = 0.0,
    causal: bool = False,
    _debug: bool = False,
    scale: float | None = None,
) -> tuple:
    return attention(q, k, v, mask, causal, scale)
