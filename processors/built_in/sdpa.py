"""``sdpa``: PyTorch's scaled_dot_product_attention at every call of ComfyUI's attention function."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from ..contract import KernelCall, KernelProcessor
from ..registry import register_processor
from .shapes import broadcast_mask, merge_heads, split_heads

#: Largest batch handed to one call: PyTorch's CUDA kernels put batch * heads on a grid dimension of 65,535.
BATCH_LIMIT = 2**15


@register_processor("sdpa")
class SDPAProcessor(KernelProcessor):
    """Fits into a graph: it does not ask how much memory is free, as ComfyUI's default on a CPU does."""

    def attend(self, call: KernelCall) -> torch.Tensor:
        q, k, v, scale = call.q, call.k, call.v, call.scale
        if not call.skip_reshape:
            q, k, v = (split_heads(x, call.head_dim()) for x in (q, k, v))
        mask = broadcast_mask(call.mask)
        extra = {"enable_gqa": True} if call.enable_gqa else {}
        if not q.is_cuda or q.shape[0] <= BATCH_LIMIT:
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, **extra)
        else:
            masks = [mask] * len(q.split(BATCH_LIMIT))
            if mask is not None and mask.shape[0] == q.shape[0]:
                masks = list(mask.split(BATCH_LIMIT))
            parts = zip(q.split(BATCH_LIMIT), k.split(BATCH_LIMIT), v.split(BATCH_LIMIT), masks, strict=True)
            out = torch.cat(
                [scaled_dot_product_attention(a, b, c, attn_mask=m, scale=scale, **extra) for a, b, c, m in parts]
            )
        return out if call.skip_output_reshape else merge_heads(out)
