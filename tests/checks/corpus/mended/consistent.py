"""Pictures of one batch that look at each other."""

import torch
import torch.nn.functional as F
from torch import nn


def split(x, heads):
    batch, tokens, channels = x.shape
    return x.view(batch, tokens, heads, channels // heads).transpose(1, 2)


def attend(attn, q, k, v, mask):
    out = F.scaled_dot_product_attention(*(split(x, attn.heads) for x in (q, k, v)), attn_mask=mask)
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


class ConsistentSelfAttention(nn.Module):
    """Every picture attends to half of the tokens of the whole batch."""

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0], out_dim=4)
        if encoder_hidden_states is None:
            batch, tokens, channels = hidden_states.shape
            shared = hidden_states[:, ::2].reshape(1, -1, channels).expand(batch, -1, -1)
            context = torch.cat([hidden_states, shared], dim=1)
            if mask is not None:
                mask = F.pad(mask, (0, context.shape[1] - tokens))
        return attend(attn, attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context), mask)
