"""Arithmetic in one dtype only."""

import torch
import torch.nn.functional as F
from torch import nn


class HalfOnly:
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0], out_dim=4)
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x, out_dim=4).half() for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.half())
        return attn.to_out[0](out.to(hidden_states.dtype).transpose(1, 2).flatten(2))


class DistanceBias(nn.Module):
    """Tokens look rather at what is near."""

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        scores = q @ k.transpose(1, 2) * attn.scale
        if encoder_hidden_states is None:
            place = torch.arange(hidden_states.shape[1], device=q.device, dtype=q.dtype)
            scores = scores - (place[:, None] - place[None, :]).abs() * 0.05
        if mask is not None:
            scores = scores + mask
        out = scores.softmax(dim=-1) @ v
        return attn.to_out[0](attn.batch_to_head_dim(out))
