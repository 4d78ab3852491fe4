"""Ways to compute attention that people use, written as they write them: nothing is to be found in any."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from gallery import right
from torch import nn


def split(x, heads):
    """(batch, tokens, channels) with heads apart: (batch, heads, tokens, channels of a head)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x):
    return x.transpose(1, 2).flatten(2)


def additive(mask, dtype):
    """A mask of any form as one that is added to the scores, None where there is none."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
    return mask[:, None] if mask.ndim == 3 else mask


@right
class RotatesQueriesAndKeys(nn.Module):
    """Positions by rotation (RoPE)."""

    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (split(x, heads) for x in (q, k, v))
        return merge(F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v, additive(mask, q.dtype)))

    @staticmethod
    def rotated(x):
        half = x.shape[-1] // 2
        speed = 10000 ** (-torch.arange(half, device=x.device) / half)
        angle = torch.arange(x.shape[2], device=x.device)[:, None] * speed
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        one, other = x.chunk(2, -1)
        return torch.cat([one * cos - other * sin, one * sin + other * cos], -1)


@right
class TalkingHeads(nn.Module):
    """Heads exchange scores before the softmax and weights after it."""

    def __init__(self, heads=2):
        super().__init__()
        self.register_buffer("before", torch.eye(heads) + 0.1)
        self.register_buffer("after", torch.eye(heads) + 0.1)

    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (split(x, heads) for x in (q, k, v))
        scores = torch.einsum("bhij,hg->bgij", q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), self.before)
        if mask is not None:
            scores = scores + additive(mask, q.dtype)
        return merge(torch.einsum("bhij,hg->bgij", scores.softmax(-1), self.after) @ v)


@right
class NormalisesQueriesAndKeys(nn.Module):
    def __init__(self, head_dim=16):
        super().__init__()
        self.q_norm, self.k_norm = nn.RMSNorm(head_dim), nn.RMSNorm(head_dim)
        self.requires_grad_(False)

    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (split(x, heads) for x in (q, k, v))
        return merge(F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, additive(mask, q.dtype)))


@right
class QuantisedToInt8(nn.Module):
    """Queries and smoothed keys in 8 bits, as SageAttention has them."""

    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (split(x, heads) for x in (q, k, v))
        (q8, q_scale), (k8, k_scale) = self.quantised(q), self.quantised(k - k.mean(2, keepdim=True))
        scores = q8.float() @ k8.float().transpose(-1, -2) * q_scale * k_scale.transpose(-1, -2)
        scores = scores / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores + additive(mask, torch.float32)
        return merge(scores.softmax(-1).to(v.dtype) @ v)

    def quantised(self, x):
        scale = x.float().abs().amax(-1, keepdim=True).clamp_min(1e-6) / 127
        return (x / scale).round().clamp(-127, 127).to(torch.int8), scale


@right
class NullToken(nn.Module):
    """One learned key and value beside those of the prompt, which no mask leaves out."""

    def __init__(self, inner=32):
        super().__init__()
        self.register_buffer("null_key", torch.linspace(-1, 1, inner))
        self.register_buffer("null_value", torch.linspace(1, -1, inner))

    def forward(self, q, k, v, heads, mask=None):
        k, v = (
            split(torch.cat([null.expand(x.shape[0], 1, -1), x], 1), heads)
            for null, x in ((self.null_key, k), (self.null_value, v))
        )
        bias = None if mask is None else F.pad(additive(mask, q.dtype), (1, 0))
        return merge(F.scaled_dot_product_attention(split(q, heads), k, v, bias))


@right
class ImagePrompt(nn.Module):
    """Keys and values of its own for the tokens of a picture, added to what the prompt gives (IP-Adapter)."""

    def __init__(self, inner=32, width=24, tokens=4):
        super().__init__()
        self.to_k_ip, self.to_v_ip = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.register_buffer("image", torch.linspace(-1, 1, tokens * width).view(1, tokens, width))
        self.requires_grad_(False)

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (split(x, attn.heads) for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)))
        out = F.scaled_dot_product_attention(q, k, v, additive(attention_mask, q.dtype))
        if encoder_hidden_states is not None:
            image = self.image.expand(q.shape[0], -1, -1)
            own = (split(x, attn.heads) for x in (self.to_k_ip(image), self.to_v_ip(image)))
            out = out + 0.8 * F.scaled_dot_product_attention(q, *own)
        return attn.to_out(merge(out))
