"""Layout helpers that the processors share."""

from __future__ import annotations

import torch


def split_heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """(batch, tokens, heads * head_dim) → (batch, heads, tokens, head_dim)."""
    batch, tokens, channels = x.shape
    return x.reshape(batch, tokens, channels // head_dim, head_dim).transpose(1, 2)


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
