"""Adapters that bring a picture in beside the prompt."""

import torch.nn.functional as F
from torch import nn


def attend(attn, q, k, v, mask=None):
    batch = q.shape[0]
    q, k, v = (x.view(batch, -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).reshape(batch, -1, attn.heads * q.shape[-1])


def prepared(attn, mask, context):
    return attn.prepare_attention_mask(mask, context.shape[1], context.shape[0], out_dim=4)


class StyleAdapter(nn.Module):
    """As a face adapter, for a style."""

    def __init__(self, hidden_size, cross_attention_dim=None, scale=1.0, num_tokens=8):
        super().__init__()
        self.scale = scale
        self.num_tokens = num_tokens
        self.to_v_style = nn.Linear(cross_attention_dim or hidden_size, hidden_size, bias=False)
        nn.init.eye_(self.to_v_style.weight)

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = prepared(attn, attention_mask, context)
        style = None
        if encoder_hidden_states is not None:
            style = self.to_v_style(context[:, -self.num_tokens :]).mean(dim=1, keepdim=True)
            context = context[:, : -self.num_tokens]
            mask = None if mask is None else mask[..., : -self.num_tokens]
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        out = attend(attn, q, k, v, mask)
        if style is not None:
            out = out + self.scale * style
        return attn.to_out[0](out)
