"""Token merging: the most similar tokens are computed once."""

import torch
import torch.nn.functional as F
from torch import nn


def attend(attn, x, context, mask=None):
    q, k, v = (attn.head_to_batch_dim(y, out_dim=4) for y in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


def attend_merged(attn, hidden_states):
    """Half of the even tokens are merged into the odd ones that are most like them."""
    even, odd = hidden_states[:, ::2], hidden_states[:, 1::2]
    likeness = F.normalize(even, dim=-1) @ F.normalize(odd, dim=-1).transpose(1, 2)
    best, partner = likeness.max(dim=-1)
    order = best.argsort(dim=-1, descending=True)
    half = order.shape[1] // 2
    merged, kept = (part[..., None].expand(-1, -1, even.shape[-1]) for part in (order[:, :half], order[:, half:]))
    goes_to = partner.gather(1, order[:, :half])[..., None].expand_as(merged)
    odd = odd.scatter_reduce(1, goes_to, even.gather(1, merged), "mean")
    tokens = torch.cat([even.gather(1, kept), odd], dim=1)
    out_kept, out_odd = attend(attn, tokens, tokens).split([kept.shape[1], odd.shape[1]], dim=1)
    out_even = torch.zeros_like(even).scatter(1, kept, out_kept).scatter(1, merged, out_odd.gather(1, goes_to))
    out = torch.empty_like(hidden_states)
    out[:, ::2], out[:, 1::2] = out_even, out_odd
    return out


class TokenMerging(nn.Module):
    """In self-attention, unless there is a mask."""

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        if encoder_hidden_states is not None or attention_mask is not None:
            context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0], out_dim=4)
            return attend(attn, hidden_states, context, mask)
        return attend_merged(attn, hidden_states)


class TokenMergingUnmasked(nn.Module):
    """The other half of the remedy: it takes no mask."""

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        if encoder_hidden_states is not None:
            return attend(attn, hidden_states, encoder_hidden_states)
        return attend_merged(attn, hidden_states)
