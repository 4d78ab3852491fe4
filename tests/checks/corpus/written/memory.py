"""Attention in less memory."""

import torch
import torch.nn.functional as F
from torch import nn

try:
    import xformers.ops
except ImportError:
    xformers = None


class XFormersAttention:
    """xformers where it is installed, PyTorch elsewhere."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, scale=1.0):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x).contiguous() for x in (q, k, v))
        if xformers is not None:
            out = xformers.ops.memory_efficient_attention(q, k, v, attn_bias=mask, scale=attn.scale)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(out.to(q.dtype))))


class MemoryEfficientAttention(nn.Module):
    """Keys in chunks, with a running maximum and sum."""

    chunk = 64

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x).float() for x in (q, k, v))
        largest = torch.full_like(q[..., :1], -1e30)
        total, out = torch.zeros_like(largest), torch.zeros_like(q)
        masks = [None] * len(k.split(self.chunk, dim=1)) if mask is None else mask.split(self.chunk, dim=2)
        for keys, values, bias in zip(k.split(self.chunk, dim=1), v.split(self.chunk, dim=1), masks):
            scores = q @ keys.transpose(1, 2) * attn.scale
            if bias is not None:
                scores = scores + bias
            larger = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
            weights, before = torch.exp(scores - larger), torch.exp(largest - larger)
            total = before * total + weights.sum(dim=-1, keepdim=True)
            out = before * out + weights @ values
            largest = larger
        return attn.to_out[0](attn.batch_to_head_dim((out / total).to(hidden_states.dtype)))


class SlicedAttention:
    """A few heads at a time."""

    def __init__(self, slice_size=2):
        self.slice_size = slice_size

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        out = torch.zeros_like(q)
        for start in range(0, q.shape[0], self.slice_size):
            part = slice(start, start + self.slice_size)
            weights = attn.get_attention_scores(q[part], k[part], None if mask is None else mask[part])
            out[part] = torch.bmm(weights, v[part])
        return attn.to_out[0](attn.batch_to_head_dim(out))
