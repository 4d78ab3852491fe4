"""Processors of a person's own, linked into models/attention_processors of the soak's server. Three compute what
ComfyUI's attention does, two half of it, so that a processor which stays or comes too late shows in the picture."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class Kernel(nn.Module):
    gain = 1.0

    def forward(self, q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False):
        if not skip_reshape:
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if mask is not None and mask.ndim == 3:
            mask = mask.unsqueeze(1)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask) * self.gain
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


class HalfKernel(Kernel):
    gain = 0.5


class Counting(Kernel):
    """Keeps something between its calls, so it runs uncompiled and has a new instance for each sampling."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False):
        self.calls += 1
        return super().forward(q, k, v, heads, mask, skip_reshape, skip_output_reshape)


class Module(nn.Module):
    gain = 1.0

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        out = attn.batch_to_head_dim(torch.bmm(attn.get_attention_scores(q, k, mask), v)) * self.gain
        return attn.to_out[1](attn.to_out[0](out))


class HalfModule(Module):
    gain = 0.5
