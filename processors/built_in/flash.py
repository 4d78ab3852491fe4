"""``flash``: FlashAttention 3 on Hopper GPUs where it is installed, else FlashAttention 2. Not run on a GPU yet."""

from __future__ import annotations

import importlib.util

import torch

from ..contract import HALF, Limits, Unsupported
from ..kernels.kernel import Kernel
from ..kernels.package import Package
from ..registry import register_processor

_THREE = "flash_attn_interface"


@register_processor("flash")
class FlashProcessor(Kernel):
    package = Package(
        "flash_attn", "run “pip install flash-attn --no-build-isolation” and restart ComfyUI", "flash-attn", "2.0"
    )
    limits = Limits(frozenset({"cuda"}), HALF, max_head_dim=256, capability=(8, 0), masks=frozenset())
    as_operator = True
    rank = 0

    @classmethod
    def absent(cls) -> Unsupported | None:
        return None if importlib.util.find_spec(_THREE) is not None else super().absent()

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        if importlib.util.find_spec(_THREE) is not None and torch.cuda.get_device_capability(q.device) == (9, 0):
            from flash_attn_interface import flash_attn_func  # type: ignore[import-not-found]
        else:
            from flash_attn import flash_attn_func  # type: ignore[import-not-found]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (batch, tokens, heads, head_dim)
        out = flash_attn_func(q, k, v, softmax_scale=scale, causal=False)
        out = out[0] if isinstance(out, tuple) else out  # the first ones of version 3 give the sums, too
        return out.transpose(1, 2)
