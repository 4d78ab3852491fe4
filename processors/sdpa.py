"""``sdpa``: PyTorch's scaled_dot_product_attention at every call of ComfyUI's attention function."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .contract import KernelProcessor
from .registry import register_processor
from .shapes import broadcast_mask, merge_heads, split_heads

#: PyTorch's order of preference where NVIDIA's own kernel is the fastest, and by how much: on an H200 (torch 2.11,
#: bfloat16) 1.9 times as fast as PyTorch's flash attention for Flux at 1024², 1.6 and 1.5 times for SDXL's two widths,
#: and as precise (relative difference from float32: 2.28e-3 and 2.27e-3). PyTorch and ComfyUI prefer the other.
CUDNN_FIRST = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)

#: Compute capabilities of such GPUs: Hopper. On no other was it measured.
CUDNN_IS_FASTER = ((9, 0),)


def preferred_backends() -> list[SDPBackend] | None:
    """The order in which this machine's GPU should be asked; None to leave it to PyTorch."""
    ordered = "set_priority" in inspect.signature(sdpa_kernel).parameters  # from torch 2.6 on
    if not ordered or not torch.cuda.is_available() or torch.version.hip is not None:
        return None
    capabilities = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return list(CUDNN_FIRST) if capabilities <= set(CUDNN_IS_FASTER) else None


#: Largest batch handed to one call: PyTorch's CUDA kernels put batch * heads on a grid dimension of 65,535.
BATCH_LIMIT = 2**15


@register_processor("sdpa")
class SDPAProcessor(KernelProcessor):
    """Does not read free memory as ComfyUI's default on a CPU does, so it breaks no graph. On GPUs where cuDNN's kernel
    is the fastest it asks for that one."""

    def __init__(self) -> None:
        super().__init__()
        self._backends = preferred_backends()

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        mask: torch.Tensor | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if not skip_reshape:
            head_dim = q.shape[-1] // heads
            q, k, v = (split_heads(x, head_dim) for x in (q, k, v))
        mask = broadcast_mask(mask)
        extra = {"scale": scale, **({"enable_gqa": True} if enable_gqa else {})}
        if q.shape[0] <= BATCH_LIMIT or not q.is_cuda:
            out = self._attend(q, k, v, mask, extra)
        else:
            masks = [mask] * len(q.split(BATCH_LIMIT))
            if mask is not None and mask.shape[0] == q.shape[0]:
                masks = list(mask.split(BATCH_LIMIT))
            parts = zip(q.split(BATCH_LIMIT), k.split(BATCH_LIMIT), v.split(BATCH_LIMIT), masks, strict=True)
            out = torch.cat([self._attend(a, b, c, m, extra) for a, b, c, m in parts])
        return out if skip_output_reshape else merge_heads(out)

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, extra: dict[str, Any]
    ) -> torch.Tensor:
        if self._backends is None:
            return scaled_dot_product_attention(q, k, v, attn_mask=mask, **extra)
        with sdpa_kernel(self._backends, set_priority=True):
            return scaled_dot_product_attention(q, k, v, attn_mask=mask, **extra)
