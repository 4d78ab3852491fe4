"""``kitchen-int8``: attention of comfy-kitchen, with Q and K rounded to 8 bits. Not run on a GPU yet."""

from __future__ import annotations

import torch

from ..contract import HALF, Limits
from ..kernels.kernel import Kernel
from ..kernels.package import Package
from ..registry import register_processor


@register_processor("kitchen-int8")
class KitchenInt8Processor(Kernel):
    """ComfyUI pins comfy-kitchen, so what brings a newer one is a newer ComfyUI."""

    package = Package("comfy_kitchen", "update ComfyUI", "comfy-kitchen", "0.2.31")
    limits = Limits(frozenset({"cuda"}), HALF, max_head_dim=256, capability=(7, 5))
    approximate = True
    as_operator = True
    rank = 12

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        from comfy_kitchen import int8_attention  # type: ignore[import-not-found, attr-defined]

        return int8_attention(q, k, v, scale=scale, attn_mask=mask)
