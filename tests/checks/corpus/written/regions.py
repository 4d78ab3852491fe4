"""Attention that depends on the place in the picture, or on the time."""

import torch
import torch.nn.functional as F
from torch import nn


def attend(attn, x, context, mask):
    q, k, v = (attn.head_to_batch_dim(y, out_dim=4) for y in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


class RegionalPrompts(nn.Module):
    """The first half of the picture reads the first half of the prompt, the other half the rest."""

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0], out_dim=4)
        if encoder_hidden_states is not None:
            place = torch.arange(hidden_states.shape[1], device=hidden_states.device) * 2 < hidden_states.shape[1]
            word = torch.arange(context.shape[1], device=context.device) * 2 < context.shape[1]
            other = place[:, None] != word[None, :]
            region = torch.zeros_like(other, dtype=hidden_states.dtype).masked_fill(other, -10000.0)
            mask = region if mask is None else mask + region
        return attend(attn, hidden_states, context, mask)


class TimeGate(nn.Module):
    """Sharpens attention in the first calls of a sampling only."""

    def __init__(self, until=16, gain=1.5):
        super().__init__()
        self.until, self.gain = until, gain
        self.calls = 0

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0], out_dim=4)
        gain = self.gain if self.calls < self.until else 1.0
        self.calls += 1
        return attend(attn, hidden_states, context, mask) * gain
