"""Modules that stand in for the whole attention module, as OneDiff's guide shows them."""

import torch.nn.functional as F
from torch import nn


class GuideAttention(nn.Module):
    """Does something after the attention that it replaces."""

    def __init__(self, attention, gain=0.9):
        super().__init__()
        self.attention = attention
        self.gain = gain

    def forward(self, hidden_states, *args, **kwargs):
        return self.attention(hidden_states, *args, **kwargs) * self.gain


class HostAttention(nn.Module):
    """Takes over the projections of the attention that it replaces, and is called as ComfyUI calls that."""

    def __init__(self, attn):
        super().__init__()
        self.heads = attn.heads
        self.to_q, self.to_k, self.to_v, self.to_out = attn.to_q, attn.to_k, attn.to_v, attn.to_out

    def forward(self, x, context=None, value=None, mask=None, transformer_options={}):
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context if value is None else value)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        return self.to_out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class NoAttention(nn.Module):
    """Tokens stay as they are."""

    def forward(self, x, context=None, value=None, mask=None, transformer_options={}):
        return x
