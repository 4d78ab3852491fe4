"""``reference``: attention as the formula says it, softmax(QKᵀ/√d)V, for checking the others against."""

from __future__ import annotations

from typing import Any

import torch

from ..contract import ModuleProcessor
from ..registry import register_processor
from .shapes import broadcast_mask, merge_heads, project, split_heads


def plain_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(QKᵀ/√d + mask)V (Vaswani et al. 2017, equation 1).

    q, k, v are (batch, heads, tokens, head_dim), the mask is (batch or 1, heads or 1, queries, keys), bool (True takes
    part) or additive. Returns (batch, heads, queries, head_dim).
    """
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (batch, heads, queries, keys)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1) @ v


@register_processor("reference")
class ReferenceProcessor(ModuleProcessor):
    """Holds the whole (queries × keys) matrix in memory: slow and large, meant for comparison."""

    def forward(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
    ) -> torch.Tensor:
        q, k, v = project(attn, hidden_states, encoder_hidden_states, value)
        head_dim = q.shape[-1] // attn.heads
        q, k, v = (split_heads(x, head_dim) for x in (q, k, v))
        return attn.to_out(merge_heads(plain_attention(q, k, v, broadcast_mask(attention_mask))))
