"""The same attention, in the ways in which people write a class."""

import torch.nn.functional as F
from torch import nn


class SDPA(nn.Module):
    """The most common form of all."""

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        batch, tokens, channels = hidden_states.shape
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = (x.view(batch, -1, attn.heads, channels // attn.heads) for x in (query, key, value))
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        if attention_mask is not None and attention_mask.ndim == 3:
            attention_mask = attention_mask[:, None]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, dropout_p=0.0)
        return attn.to_out[0](out.transpose(1, 2).reshape(batch, tokens, channels))


class HandsAllOnToSDPA(SDPA):
    def __init__(self, gain=0.9):
        super().__init__()
        self.gain = gain

    def forward(self, *args, **kwargs):
        return self.gain * super().forward(*args, **kwargs)


class Right(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, gain=1.0):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        out = attn.batch_to_head_dim(attn.get_attention_scores(q, k, mask) @ v)
        return attn.to_out[0](out) * gain


class Partial(Right):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return super().forward(attn, hidden_states, encoder_hidden_states, attention_mask, gain=0.8)
