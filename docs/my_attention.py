"""An attention processor of your own. Copy this file to models/attention_processors, under any name ending in .py.

Every class here becomes a choice of “processor”: custom/my_attention:MyAttention and so on.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class MyAttention(nn.Module):
    """Takes the place of ComfyUI's attention function: it is given q, k and v. Works in every model."""

    def forward(self, q, k, v, heads, mask=None):
        # q, k, v: (batch, tokens, channels); channels are heads * head size.
        # mask: None, bool (True takes part) or added to the scores.
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (batch, heads, tokens, head size)
        if mask is not None and mask.ndim == 3:
            mask = mask.unsqueeze(1)  # one mask for all heads
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)  # (batch, tokens, channels)


class MyModuleAttention(nn.Module):
    """Takes the place of a whole attention module, as diffusers' processors do. Works in UNets (SD 1.5, SDXL)."""

    # Where it can be used. The node leaves other places alone and says so. Every entry is optional.
    limits = {"devices": {"cpu", "cuda"}, "dtypes": {torch.float32, torch.float16, torch.bfloat16}, "max_head_dim": 256}

    def __init__(self, gain: float = 1.0):  # a default for everything but what a place tells: hidden_size, num_heads, …
        super().__init__()
        self.gain = gain

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        # attn has to_q, to_k, to_v, to_out and heads, and what diffusers' Attention promises besides.
        # encoder_hidden_states is the prompt; None means that the picture attends to itself.
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))  # (batch * heads, tokens, head size)
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        weights = attn.get_attention_scores(q, k, mask)  # (batch * heads, queries, keys), rows add up to 1
        out = attn.batch_to_head_dim(weights @ v)  # (batch, tokens, channels)
        return attn.to_out[1](attn.to_out[0](out)) * self.gain


class MyStandIn(nn.Module):
    """Stands in for the whole attention module, and is called as that one is. Works in UNets (SD 1.5, SDXL)."""

    def __init__(self, attn):  # the module that it replaces: each place gets an instance of its own
        super().__init__()
        self.heads = attn.heads
        self.to_q, self.to_k, self.to_v, self.to_out = attn.to_q, attn.to_k, attn.to_v, attn.to_out  # LoRAs act on them

    def forward(self, hidden_states, context=None, value=None, mask=None, **kwargs):
        context = hidden_states if context is None else context
        q, k, v = self.to_q(hidden_states), self.to_k(context), self.to_v(context if value is None else value)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        if mask is not None and mask.ndim == 3:
            mask = mask.unsqueeze(1)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))
