"""In the place of the attention function: q, k and v come in."""

import torch
import torch.nn.functional as F
from torch import nn


class PlainKernel(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        batch, _, channels = q.shape
        q, k, v = (x.view(batch, -1, heads, channels // heads).transpose(1, 2) for x in (q, k, v))
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).reshape(batch, -1, channels)


class FadingKernel(nn.Module):
    """Sharpest in the first steps."""

    def forward(self, q, k, v, heads, mask=None, transformer_options=None):
        sharpness = 1 + transformer_options["sigmas"][0].to(q.dtype) / 15
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        out = F.scaled_dot_product_attention(q * sharpness, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)


class LoudKernel(nn.Module):
    """Says what it is given."""

    def forward(self, q, k, v, heads, mask=None):
        if not torch.compiler.is_compiling():
            print("attention of", tuple(q.shape))
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
