"""Attention with a mask in a graph that holds for every batch."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from ...memo import cached


def of_any_batch(mask: torch.Tensor) -> bool:
    """Whether a graph is traced in which nobody knows the batch of a mask. PyTorch's attention asks whether that is 1
    (torch 2.11), so that no such graph can hold it."""
    if not (_kept and torch.compiler.is_compiling()):
        return False
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    batch = mask.shape[0]
    return not (statically_known_true(batch == 1) or statically_known_true(batch != 1))


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """PyTorch's attention, as an operator: on the sizes of the call."""
    return torch.ops.onediff_comfy.masked_attention(q, k, v, mask, scale).transpose(1, 2)


@cached
def register() -> None:
    """Registers the operator, before anything is compiled for every batch. What it gives is (batch, queries, heads,
    head_dim) with no gaps, as PyTorch's attention on a CPU lays it out."""

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        extra: dict[str, Any] = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, **extra)
        return out.transpose(1, 2).contiguous()

    def form(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        return q.new_empty((q.shape[0], q.shape[2], q.shape[1], v.shape[3]))

    operator = torch.library.custom_op("onediff_comfy::masked_attention", attention, mutates_args=())
    operator.register_fake(form)
    _kept.append(operator)


_kept: list[Any] = []
