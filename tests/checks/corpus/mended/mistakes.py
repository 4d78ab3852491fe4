"""Classes that compute what they are meant to."""

import torch
from torch import nn


class NoSuperInit(nn.Module):
    def __init__(self, gain=0.5):
        super().__init__()
        self.gain = gain

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        return attn.to_out[0](attn.batch_to_head_dim(attn.get_attention_scores(q, k, mask) @ v)) * self.gain


class NotImported(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        out = torch.softmax(q @ k.transpose(1, 2) * attn.scale + (0 if mask is None else mask), dim=-1) @ v
        return attn.to_out[0](attn.batch_to_head_dim(out))
