"""Reference-only: one picture is written down, another one reads it."""

import torch
import torch.nn.functional as F
from torch import nn

bank = None


def remember(tokens):
    global bank
    bank = tokens


def attend(attn, x, context, mask):
    mask = attn.prepare_attention_mask(mask, context.shape[1], context.shape[0], out_dim=4)
    q, k, v = (attn.head_to_batch_dim(y, out_dim=4) for y in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


class ReferenceWriter(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        if encoder_hidden_states is None:
            remember(hidden_states.detach())
            encoder_hidden_states = hidden_states
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)


class ReferenceReader(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        read = bank
        if read is not None and encoder_hidden_states is None and read.shape == hidden_states.shape:
            context = torch.cat([hidden_states, read], dim=1)
            attention_mask = None
        return attend(attn, hidden_states, context, attention_mask)
