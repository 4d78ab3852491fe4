"""Small trained weights beside the model's own."""

import torch
import torch.nn.functional as F
from torch import nn


class LoRALinear(nn.Module):
    def __init__(self, in_features, out_features, rank, up=0.0):
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=False)
        nn.init.eye_(self.down.weight)
        nn.init.constant_(self.up.weight, up)

    def forward(self, x):
        return self.up(self.down(x))


class LoRAAttention(nn.Module):
    def __init__(self, hidden_size, cross_attention_dim=None, rank=4, scale=1.0):
        super().__init__()
        self.scale = scale
        self.to_q_lora = LoRALinear(hidden_size, hidden_size, rank, 0.01)
        self.to_k_lora = LoRALinear(cross_attention_dim or hidden_size, hidden_size, rank, 0.02)
        self.to_v_lora = LoRALinear(cross_attention_dim or hidden_size, hidden_size, rank)
        self.to_out_lora = LoRALinear(hidden_size, hidden_size, rank)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, scale=1.0):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q = attn.to_q(hidden_states) + scale * self.scale * self.to_q_lora(hidden_states)
        k = attn.to_k(context) + scale * self.scale * self.to_k_lora(context)
        v = attn.to_v(context) + scale * self.scale * self.to_v_lora(context)
        q, k, v = (attn.head_to_batch_dim(x).contiguous() for x in (q, k, v))
        out = attn.batch_to_head_dim(torch.bmm(attn.get_attention_scores(q, k, mask), v))
        return attn.to_out[1](attn.to_out[0](out) + scale * self.scale * self.to_out_lora(out))


class NamedLoRA(LoRAAttention):
    """Which adapter it is, nobody but its author can say."""

    def __init__(self, hidden_size, cross_attention_dim, adapter_name):
        super().__init__(hidden_size, cross_attention_dim)
        self.adapter_name = adapter_name


class CustomDiffusion(nn.Module):
    """Keys and values of the prompt by trained projections, its first token kept out of training."""

    def __init__(self, hidden_size, cross_attention_dim, out_bias=True):
        super().__init__()
        self.is_cross = cross_attention_dim is not None
        width = cross_attention_dim if self.is_cross else hidden_size
        self.to_k_custom_diffusion = nn.Linear(width, hidden_size, bias=False)
        self.to_v_custom_diffusion = nn.Linear(width, hidden_size, bias=False)
        nn.init.eye_(self.to_k_custom_diffusion.weight)
        nn.init.eye_(self.to_v_custom_diffusion.weight)

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        q = attn.to_q(hidden_states)
        if encoder_hidden_states is None:
            k, v = attn.to_k(hidden_states), attn.to_v(hidden_states)
        else:
            k = self.to_k_custom_diffusion(encoder_hidden_states)
            v = self.to_v_custom_diffusion(encoder_hidden_states)
            trained = torch.ones_like(k)
            trained[:, :1] = 0
            k = trained * k + (1 - trained) * k.detach()
            v = trained * v + (1 - trained) * v.detach()
        mask = attn.prepare_attention_mask(attention_mask, k.shape[1], k.shape[0], out_dim=4)
        q, k, v = (attn.head_to_batch_dim(x, out_dim=4) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))
