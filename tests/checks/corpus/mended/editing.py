"""Attention maps that are looked at, kept or exchanged."""

import torch
from torch import nn


class PlainAttention(nn.Module):
    def edit(self, weights, heads, is_cross):
        return weights

    def values(self, k, v, is_cross):
        return k, v

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        k, v = self.values(attn.to_k(context), attn.to_v(context), is_cross)
        q, k, v = (attn.head_to_batch_dim(x) for x in (attn.to_q(hidden_states), k, v))
        weights = self.edit(attn.get_attention_scores(q, k, mask), attn.heads, is_cross)
        return attn.to_out[0](attn.batch_to_head_dim(torch.bmm(weights, v)))


class AttentionStore(PlainAttention):
    """Keeps the maps of small cross-attentions, to be looked at after sampling."""

    def __init__(self, largest=1024):
        super().__init__()
        self.largest = largest
        self.maps = []

    def edit(self, weights, heads, is_cross):
        if not torch.compiler.is_compiling() and is_cross and weights.shape[1] <= self.largest:
            self.maps.append(weights.detach().cpu())
        return weights


class MutualSelfAttention(PlainAttention):
    """All pictures take keys and values of the first one. In which layers, the node's blocks say."""

    def values(self, k, v, is_cross):
        return (k, v) if is_cross else (k[:1].expand_as(k), v[:1].expand_as(v))
