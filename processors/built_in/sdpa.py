"""``sdpa``: PyTorch's scaled_dot_product_attention; and the same with one of its kernels alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ..contract import HALF, Limits
from ..kernels.any_batch import masked, of_any_batch
from ..kernels.kernel import Kernel
from ..registry import register_processor

#: Largest batch handed to one call: PyTorch's CUDA kernels put batch * heads on a grid dimension of 65,535.
BATCH_LIMIT = 2**15

#: Compute capabilities on which cuDNN's kernel is the fastest: 3.9 times as fast as flash on a B200, slower on an A100.
CUDNN_FIRST = ((9, 0), (10, 0))


@register_processor("sdpa")
class SDPAProcessor(Kernel):
    """Fits into a graph: it does not ask how much memory is free, as ComfyUI's default on a CPU does."""

    rank: ClassVar[int | None] = 1

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        extra = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
        if mask is not None and of_any_batch(mask):
            return masked(q, k, v, mask, scale)
        if not q.is_cuda or q.shape[0] <= BATCH_LIMIT:
            return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, **extra)
        masks = [mask] * len(q.split(BATCH_LIMIT))
        if mask is not None and mask.shape[0] == q.shape[0]:
            masks = list(mask.split(BATCH_LIMIT))
        parts = zip(q.split(BATCH_LIMIT), k.split(BATCH_LIMIT), v.split(BATCH_LIMIT), masks, strict=True)
        return torch.cat(
            [scaled_dot_product_attention(a, b, c, attn_mask=m, scale=scale, **extra) for a, b, c, m in parts]
        )

    def while_sampling(self, device: torch.device) -> AbstractContextManager[None]:
        """PyTorch's kernels in the order that is right for the device."""
        if device.type != "cuda" or torch.cuda.get_device_capability(device) not in CUDNN_FIRST:
            return nullcontext()
        return _in_order()


@contextmanager
def _in_order() -> Iterator[None]:
    if "set_priority" not in inspect.signature(sdpa_kernel).parameters:  # PyTorch before 2.6
        yield
        return
    known = torch.backends.cuda
    order = {
        SDPBackend.CUDNN_ATTENTION: known.cudnn_sdp_enabled(),
        SDPBackend.FLASH_ATTENTION: known.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: known.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: known.math_sdp_enabled(),
    }
    with sdpa_kernel([kernel for kernel, allowed in order.items() if allowed], set_priority=True):
        yield


class _Alone(SDPAProcessor):
    """With one kernel of PyTorch's, which is told by a setting of the process: no graph holds that."""

    as_operator = True
    rank: ClassVar[int | None] = None
    kernel: ClassVar[SDPBackend]

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        with sdpa_kernel(self.kernel):
            return super().attend(q, k, v, mask, scale)

    def while_sampling(self, device: torch.device) -> AbstractContextManager[None]:
        return nullcontext()


@register_processor("sdpa-flash")
class FlashAlone(_Alone):
    kernel = SDPBackend.FLASH_ATTENTION
    limits = Limits(frozenset({"cuda"}), HALF, max_head_dim=256, capability=(8, 0), masks=frozenset())
    rank = 3


@register_processor("sdpa-cudnn")
class CuDNNAlone(_Alone):
    kernel = SDPBackend.CUDNN_ATTENTION
    limits = Limits(frozenset({"cuda"}), HALF, max_head_dim=128, capability=(8, 0))
    rank = 2


@register_processor("sdpa-efficient")
class EfficientAlone(_Alone):
    kernel = SDPBackend.EFFICIENT_ATTENTION
    limits = Limits(frozenset({"cuda"}), gqa=False)


@register_processor("sdpa-math")
class MathAlone(_Alone):
    kernel = SDPBackend.MATH
