"""In the place of the attention function: q, k and v come in."""

import torch.nn.functional as F
from torch import nn


class SharpKernel(nn.Module):
    """Attention at a lower temperature."""

    def __init__(self, sharpness=1.25):
        super().__init__()
        self.sharpness = sharpness

    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        out = F.scaled_dot_product_attention(q * self.sharpness, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)


class PlainKernel(nn.Module):
    """The mask as it comes."""

    def forward(self, q, k, v, heads, mask=None):
        batch, _, channels = q.shape
        q, k, v = (x.view(batch, -1, heads, channels // heads).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).reshape(batch, -1, channels)


class FadingKernel(nn.Module):
    """Sharpest in the first steps."""

    def __init__(self):
        super().__init__()
        self.step = 0

    def forward(self, q, k, v, heads, mask=None):
        self.step += 1
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        out = F.scaled_dot_product_attention(q * (1 + 1 / self.step), k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)


class LoudKernel(nn.Module):
    """Says what it is given."""

    def forward(self, q, k, v, heads, mask=None):
        print("attention of", tuple(q.shape))
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
