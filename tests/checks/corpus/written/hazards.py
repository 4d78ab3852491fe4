"""Attention that works, with something that no graph can hold."""

import numpy as np
import torch
from torch import nn

strength = 1.0


def set_strength(value):
    global strength
    strength = value


class Attention(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        return attn.to_out[0](attn.batch_to_head_dim(attn.get_attention_scores(q, k, mask) @ v))


class CountsCalls(Attention):
    def __init__(self):
        super().__init__()
        self.step = 0

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        self.step += 1
        return super().forward(attn, hidden_states, encoder_hidden_states, attention_mask) / (1 + self.step / 100)


class Prints(Attention):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        print("attention of", tuple(hidden_states.shape))
        return super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)


class BranchesOnValue(Attention):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        if hidden_states.abs().max() > 2:
            hidden_states = hidden_states.clamp(-2, 2)
        return super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)


class BranchesOnItem(Attention):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        spread = hidden_states.std().item()
        if spread > 0.5:
            hidden_states = hidden_states * 0.5
        return super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)


class GlobalStrength(Attention):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        out = super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)
        return out * strength


class UsesNumpy(Attention):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        out = super().forward(attn, hidden_states, encoder_hidden_states, attention_mask)
        squashed = np.tanh(out.cpu().numpy())
        return torch.from_numpy(squashed).to(out)
