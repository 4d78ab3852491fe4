"""Attention by xformers where it is installed."""

import torch.nn.functional as F
from torch import nn

try:
    from xformers.ops import memory_efficient_attention
except ImportError:
    memory_efficient_attention = F.scaled_dot_product_attention


class XFormersOnly(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x).contiguous() for x in (q, k, v))
        return attn.to_out[0](attn.batch_to_head_dim(memory_efficient_attention(q, k, v, mask)))
