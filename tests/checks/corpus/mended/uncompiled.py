"""Attention that lets the compiler in."""

from torch import nn


class NeverCompiled(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        out = attn.batch_to_head_dim(attn.get_attention_scores(q, k, mask) @ v)
        return attn.to_out[0](out)
