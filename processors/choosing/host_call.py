"""A call of ComfyUI's attention function as a value: computed by the host or by a kernel, whole or a part of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..built_in.shapes import broadcast_mask, split_heads
from ..contract import KernelCall
from ..kernels.kernel import kind_of

#: Queries at which results are compared with attention in float32.
ROWS = 256


@dataclass(frozen=True)
class Shape:
    """What calls have in common that one choice is made for. Tokens and batch are rounded to a power of two, so that
    what was measured at one size serves sizes near to it."""

    dtype: str
    heads: int
    key_heads: int
    head_dim: int
    batch: int
    queries: int
    keys: int
    mask: str | None

    @property
    def name(self) -> str:
        """ "float32 2×8 (4096×64) 40" and so on, the same in every process."""
        heads = f"{self.heads}" if self.heads == self.key_heads else f"{self.heads}/{self.key_heads}"
        mask = f" {self.mask}" if self.mask else ""
        return f"{self.dtype} {self.batch}×{heads} {self.queries}×{self.keys} {self.head_dim}{mask}"


@dataclass(frozen=True)
class HostCall:
    """``function`` is ComfyUI's, ``more`` what the model passed to it besides."""

    function: Callable
    call: KernelCall
    precision: torch.dtype | None
    more: dict[str, Any]

    def by_host(self) -> torch.Tensor:
        q, k, v, heads, mask, split_in, split_out = self.call[:7]
        return self.function(q, k, v, heads, mask, self.precision, split_in, split_out, **self.more)

    def by(self, kernel: Callable[..., torch.Tensor]) -> torch.Tensor:
        return kernel(*self.call)

    @property
    def shape(self) -> Shape:
        q, k, _ = self.apart()
        mask = None if self.call.mask is None else kind_of(self.call.mask)
        dtype = str(q.dtype).removeprefix("torch.")
        batch, queries, keys = (_rounded(n) for n in (q.shape[0], q.shape[2], k.shape[2]))
        return Shape(dtype, q.shape[1], k.shape[1], q.shape[-1], batch, queries, keys, mask)

    def apart(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k and v as (batch, heads, tokens, head_dim)."""
        q, k, v = self.call[:3]
        if self.call.skip_reshape:
            return q, k, v
        head_dim = self.call.head_dim()
        return split_heads(q, head_dim), split_heads(k, head_dim), split_heads(v, head_dim)

    def part(self, share: float) -> HostCall:
        """About this share of the work, on copies and in the same layout: fewer of the batch, then fewer heads, then
        fewer queries."""
        call = self.call
        q, k, v, mask = call.q, call.k, call.v, broadcast_mask(call.mask)
        split, heads = call.skip_reshape, call.heads
        batch = _fewer(q.shape[0], share)
        share *= q.shape[0] / batch
        q, k, v = (x[:batch] for x in (q, k, v))
        if mask is not None and mask.shape[0] > 1:
            mask = mask[:batch]
        if not call.enable_gqa and q.ndim == k.ndim == v.ndim:
            width, kept = call.head_dim(), _fewer(heads, share)
            share *= heads / kept
            q, k, v = (x[:, :kept] if split else x[..., : kept * width] for x in (q, k, v))
            heads = kept
            if mask is not None and mask.shape[1] > 1:
                mask = mask[:, :kept]
        tokens = 2 if split else 1
        rows = _fewer(q.shape[tokens], share)
        q = q.narrow(tokens, 0, rows)
        if mask is not None and mask.shape[2] > 1:
            mask = mask[:, :, :rows]
        copies = [x.clone() for x in (q, k, v)]
        form = call.mask if call.mask is None else call.mask.ndim
        if form is not None and mask is not None and form < 4:
            mask = mask.squeeze(1) if form == 3 else mask[0, 0]
        return replace(self, call=call._replace(q=copies[0], k=copies[1], v=copies[2], heads=heads, mask=mask))

    def error(self, result: torch.Tensor) -> float:
        """‖difference‖ / ‖attention in float32‖ at some queries; not a number where the result is not finite."""
        q, k, v = self.apart()
        out = result if self.call.skip_output_reshape else split_heads(result, v.shape[-1])
        at = torch.linspace(0, q.shape[2] - 1, min(ROWS, q.shape[2]), device=q.device).long()
        k, v = (x.float().repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scale = 1 / math.sqrt(q.shape[-1]) if self.call.scale is None else self.call.scale
        scores = q[:, :, at].float() @ k.transpose(-2, -1) * scale
        mask = broadcast_mask(self.call.mask)
        if mask is not None:
            mask = mask if mask.shape[2] == 1 else mask[:, :, at]
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        expected = scores.softmax(-1) @ v
        return ((out[:, :, at].float() - expected).norm() / expected.norm()).item()


def _rounded(number: int) -> int:
    """``_rounded(77)`` is 64, ``_rounded(4096)`` 4096."""
    return 2 ** round(math.log2(max(number, 1)))


def _fewer(number: int, share: float) -> int:
    return max(1, min(number, round(number * share)))
