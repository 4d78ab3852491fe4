"""``sage``: SageAttention 1 and 2, with Q and K rounded to 8 bits. Not run on a GPU yet."""

from __future__ import annotations

import torch

from ..contract import HALF, Limits
from ..kernels.kernel import Kernel
from ..kernels.package import Package
from ..registry import register_processor


@register_processor("sage")
class SageProcessor(Kernel):
    """Version 1 smooths k in place, so it is handed a copy."""

    package = Package("sageattention", "run “pip install sageattention” and restart ComfyUI")
    limits = Limits(
        frozenset({"cuda"}),
        HALF,
        head_dims=frozenset({64, 96, 128}),
        capability=(8, 0),
        masks=frozenset(),
        gqa=False,
    )
    approximate = True
    as_operator = True
    rank = 11

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        from sageattention import sageattn  # type: ignore[import-not-found]

        return sageattn(q, k.clone(), v, tensor_layout="HND", is_causal=False, sm_scale=scale)
