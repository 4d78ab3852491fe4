"""Layout helpers that the processors share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def project(
    attn: Any, hidden_states: torch.Tensor, context: torch.Tensor | None, value: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v of a ComfyUI ``CrossAttention``, each (batch, tokens, heads * head_dim).

    ``context`` and ``value`` are None where they are ``hidden_states``, and where the values come from ``context``.
    """
    context = hidden_states if context is None else context
    return attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context if value is None else value)


def in_batch_of(x: torch.Tensor, *others: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """Keys and values, or what they are made from, in the batch of the queries: (batch, tokens, …) each.

    ComfyUI's attention takes the batch from the queries alone and views the rest so. HyperTile relies on that: it cuts
    the queries into tiles, and leaves what they attend to in one piece.
    """
    batch = x.shape[0]
    return tuple(
        [one if one is None or one.shape[0] == batch else one.reshape(batch, -1, *one.shape[2:]) for one in others]
    )


def attend(
    kernel: Callable,
    attn: Any,
    hidden_states: torch.Tensor,
    context: torch.Tensor | None,
    mask: torch.Tensor | None,
    value: torch.Tensor | None,
) -> torch.Tensor:
    """The output of a ComfyUI ``CrossAttention`` whose attention is computed by a kernel-level processor."""
    q, k, v = project(attn, hidden_states, context, value)
    return attn.to_out(kernel(q, k, v, attn.heads, mask))


def split_heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """(batch, tokens, heads * head_dim) → (batch, heads, tokens, head_dim). SD 3 has its values with heads apart."""
    batch, tokens, *channels = x.shape
    return x.reshape(batch, tokens, math.prod(channels) // head_dim, head_dim).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """(batch, heads, tokens, head_dim) → (batch, tokens, heads * head_dim)."""
    batch, heads, tokens, head_dim = x.shape
    return x.transpose(1, 2).reshape(batch, tokens, heads * head_dim)


def broadcast_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A 2- or 3-dimensional mask as (batch or 1, heads or 1, queries, keys)."""
    if mask is None:
        return None
    if mask.ndim == 2:
        mask = mask.unsqueeze(0)  # (1, queries, keys)
    if mask.ndim == 3:
        mask = mask.unsqueeze(1)  # (batch, 1, queries, keys)
    return mask
