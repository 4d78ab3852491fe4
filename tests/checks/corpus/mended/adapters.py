"""Small trained weights beside the model's own."""

import torch
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

    def __init__(self, hidden_size, cross_attention_dim=None, adapter_name="default"):
        super().__init__(hidden_size, cross_attention_dim)
        self.adapter_name = adapter_name
