"""Attention that works, with nothing that a graph cannot hold."""

import torch
from torch import nn


class Attention(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        return attn.to_out[0](attn.batch_to_head_dim(attn.get_attention_scores(q, k, mask) @ v))


class CountsCalls(Attention):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, transformer_options=None):
        out = super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)
        return out / (1 + transformer_options["sigmas"][0])


class Prints(Attention):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        if not torch.compiler.is_compiling():
            print("attention of", tuple(hidden_states.shape))
        return super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)


class BranchesOnValue(Attention):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        hidden_states = torch.where(hidden_states.abs().max() > 2, hidden_states.clamp(-2, 2), hidden_states)
        return super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)


class BranchesOnItem(Attention):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        spread = hidden_states.std()
        hidden_states = torch.where(spread > 0.5, hidden_states * 0.5, hidden_states)
        return super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)


class GlobalStrength(Attention):
    def __init__(self, strength=1.0):
        super().__init__()
        self.strength = strength

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        out = super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)
        return out * self.strength


class UsesNumpy(Attention):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        out = super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)
        return torch.tanh(out)
