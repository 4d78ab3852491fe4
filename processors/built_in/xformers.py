"""``xformers``: memory-efficient attention of xFormers. Not run on a GPU yet."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from ..contract import Limits
from ..kernels.kernel import Kernel
from ..kernels.package import Package
from ..registry import register_processor

#: Rows of a mask begin at multiples of so many values.
_ALIGNED = 8


@register_processor("xformers")
class XFormersProcessor(Kernel):
    package = Package(
        "xformers", "run “pip install --no-deps xformers”, in the version for your PyTorch, and restart ComfyUI"
    )
    limits = Limits(frozenset({"cuda"}), masks=frozenset({"additive"}), gqa=False)
    as_operator = True
    rank = 4

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        from xformers.ops import memory_efficient_attention  # type: ignore[import-not-found]

        if mask is not None:
            keys = mask.shape[-1]
            mask = pad(mask.to(q.dtype), (0, -keys % _ALIGNED))[..., :keys]
            mask = mask.expand(q.shape[0], q.shape[1], q.shape[2], keys)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (batch, tokens, heads, head_dim)
        return memory_efficient_attention(q, k, v, attn_bias=mask, scale=scale).transpose(1, 2)
