"""``sage3``: SageAttention 3, which computes in 4 bits on Blackwell GPUs. Not run on a GPU yet."""

from __future__ import annotations

import math

import torch

from ..contract import HALF, Limits
from ..kernels.kernel import Kernel
from ..kernels.package import Package
from ..registry import register_processor


@register_processor("sage3")
class Sage3Processor(Kernel):
    """It takes no scale, so q is brought to the one that it uses."""

    package = Package("sageattn3", "build sageattention3_blackwell from github.com/thu-ml/SageAttention")
    limits = Limits(frozenset({"cuda"}), HALF, max_head_dim=128, capability=(10, 0), masks=frozenset(), gqa=False)
    approximate = True
    as_operator = True
    rank = 10

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        from sageattn3 import sageattn3_blackwell  # type: ignore[import-not-found]

        q = q * (scale * math.sqrt(q.shape[-1]))
        return sageattn3_blackwell(q.contiguous(), k.clone(), v.contiguous(), is_causal=False)
