"""Attention that is disturbed, smoothed or amplified on purpose."""

import torch
import torch.nn.functional as F
from torch import nn


def attend(attn, q, k, v, mask=None):
    q, k, v = (attn.head_to_batch_dim(x, out_dim=4) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def plain(attn, hidden_states, context, mask):
    context = hidden_states if context is None else context
    mask = attn.prepare_attention_mask(mask, context.shape[1], context.shape[0], out_dim=4)
    return attend(attn, attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context), mask)


class PerturbedAttention:
    """The second half of a batch does not look around: its attention is the identity."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        if encoder_hidden_states is not None or attention_mask is not None:
            return attn.to_out[0](plain(attn, hidden_states, encoder_hidden_states, attention_mask))
        original, perturbed = hidden_states.chunk(2)
        looked = plain(attn, original, None, None)
        return attn.to_out[0](torch.cat([looked, attn.to_v(perturbed)]))


class SmoothedEnergy(nn.Module):
    """Queries are blurred as a picture, which flattens the energy of attention."""

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        q = attn.to_q(hidden_states)
        if encoder_hidden_states is None:
            batch, tokens, channels = q.shape
            size = int(tokens**0.5)
            image = q.transpose(1, 2).reshape(batch, channels, size, size)
            image = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            q = image.flatten(2).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0], out_dim=4)
        return attn.to_out[0](attend(attn, q, attn.to_k(context), attn.to_v(context), mask))


class FreeUScaling(nn.Module):
    """Amplifies half of the channels, and damps slow changes along the tokens of the other half."""

    def __init__(self, backbone=1.2, skip=0.8, lowest=4):
        super().__init__()
        self.backbone, self.skip, self.lowest = backbone, skip, lowest

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        out = attn.to_out[0](plain(attn, hidden_states, encoder_hidden_states, attention_mask))
        half = out.shape[-1] // 2
        spectrum = torch.fft.fft(out[..., half:].float(), dim=1)
        damped = torch.cat([spectrum[:, : self.lowest] * self.skip, spectrum[:, self.lowest :]], dim=1)
        slow = torch.fft.ifft(damped, dim=1).real.to(out.dtype)
        return torch.cat([out[..., :half] * self.backbone, slow], dim=-1)
