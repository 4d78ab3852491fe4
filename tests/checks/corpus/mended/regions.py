"""Attention that depends on the place in the picture, or on the time."""

import torch
import torch.nn.functional as F
from torch import nn


def attend(attn, x, context, mask):
    q, k, v = (attn.head_to_batch_dim(y, out_dim=4) for y in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


class TimeGate(nn.Module):
    """Sharpens attention while there is much noise."""

    def __init__(self, above=0.75, gain=1.5):
        super().__init__()
        self.above, self.gain = above, gain

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, transformer_options=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0], out_dim=4)
        out = attend(attn, hidden_states, context, mask)
        return torch.where(transformer_options["sigmas"][0] > self.above, out * self.gain, out)
