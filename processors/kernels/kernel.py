"""The contract of an attention kernel: its author writes ``attend`` and states limits; the rest is done here."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from ...memo import cached
from ..built_in.shapes import broadcast_mask, merge_heads, split_heads
from ..contract import KernelCall, KernelProcessor, MaskKind, Unsupported
from ..registry import DEFAULT_PROCESSOR, get_processor
from .package import Package


class Kernel(KernelProcessor):
    """Attention on tensors whose heads are apart, in one layout.

    ``limits`` says what it is used for: other calls are not handed to it. ``package`` is where it comes from; such a
    one is proven in a process of its own before it is used. ``as_operator``: no graph can hold it, so compiled blocks
    call it as an operator. ``rank`` is its place among those that ``auto`` tries, by the speed that is expected; None:
    it is chosen by name alone.
    """

    package: ClassVar[Package | None] = None
    rank: ClassVar[int | None] = None

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        """softmax(scale · QKᵀ + mask)V, (batch, heads, tokens, head_dim). Inputs are not to be written into.

        Args:
            q, k, v: (batch, heads, tokens, head_dim), not always contiguous; k and v have fewer heads only with
                ``limits.gqa``.
            mask: of a kind in ``limits.masks``, (batch or 1, heads or 1, queries, keys).
        """
        raise NotImplementedError

    @classmethod
    def absent(cls) -> Unsupported | None:
        """What is missing on this machine, None when nothing is known to be."""
        return None if cls.package is None else cls.package.absent()

    @classmethod
    def unfit(cls, call: KernelCall) -> Unsupported | None:
        """Why it cannot take a call, None when it can."""
        kind = None if call.mask is None else kind_of(call.mask)
        return _unfit(cls, call.q.device.type, call.q.device.index, call.q.dtype, call.head_dim(), kind)

    def compute(self, call: KernelCall) -> torch.Tensor:
        if self.as_operator and self.unfit(call) is not None:  # in a compiled block: others ask before
            return get_processor(DEFAULT_PROCESSOR)(*call)
        return self.computed(call)

    def computed(self, call: KernelCall) -> torch.Tensor:
        """A call that it can take."""
        q, k, v = call.q, call.k, call.v
        head_dim = call.head_dim()
        if not call.skip_reshape:
            q, k, v = (split_heads(x, head_dim) for x in (q, k, v))
        if not self.limits.gqa and k.shape[1] != q.shape[1]:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        mask = broadcast_mask(call.mask)
        if mask is not None and mask.dtype == torch.bool and "bool" not in self.limits.masks:
            mask = additive(mask, q.dtype)
        out = self.attend(q, k, v, mask, 1 / math.sqrt(head_dim) if call.scale is None else call.scale)
        return out if call.skip_output_reshape else merge_heads(out)


def kind_of(mask: torch.Tensor) -> MaskKind:
    return "bool" if mask.dtype == torch.bool else "additive"


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A bool mask as one that is added. What is masked gets a number, not -Inf, of which some kernels make NaN."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min / 2)


@cached
def _unfit(
    cls: type[Kernel], device: str, index: int | None, dtype: torch.dtype, head_dim: int, mask: MaskKind | None
) -> Unsupported | None:
    limits: Any = cls.limits
    place = torch.device(device) if index is None else torch.device(device, index)
    reasons = limits.not_supported_reasons(place, dtype, head_dim)
    if mask is not None and not limits.masks & {mask, "additive"}:
        reasons.append(Unsupported("it takes no mask"))
    return reasons[0] if reasons else None
