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


class FaceAdapter(nn.Module):
    """The last tokens of the prompt come from a face; they are attended to through weights of their own."""

    def __init__(self, hidden_size, cross_attention_dim=None, scale=0.6, num_tokens=4):
        super().__init__()
        self.scale = scale
        self.num_tokens = num_tokens
        self.to_k_ip = nn.Linear(cross_attention_dim or hidden_size, hidden_size, bias=False)
        self.to_v_ip = nn.Linear(cross_attention_dim or hidden_size, hidden_size, bias=False)
        nn.init.eye_(self.to_k_ip.weight)
        nn.init.eye_(self.to_v_ip.weight)

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        q = attn.to_q(hidden_states)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = prepared(attn, attention_mask, context)
        if encoder_hidden_states is None:
            return attn.to_out[0](attend(attn, q, attn.to_k(context), attn.to_v(context), mask))
        end = context.shape[1] - self.num_tokens
        text, face = context[:, :end], context[:, end:]
        mask = None if mask is None else mask[..., :end]
        out = attend(attn, q, attn.to_k(text), attn.to_v(text), mask)
        out = out + self.scale * attend(attn, q, self.to_k_ip(face), self.to_v_ip(face))
        return attn.to_out[1](attn.to_out[0](out))


class StyleAdapter(nn.Module):
    """As a face adapter, for a style. Its mask still covers the tokens that were cut off."""

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
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        out = attend(attn, q, k, v, mask)
        if style is not None:
            out = out + self.scale * style
        return attn.to_out[0](out)
