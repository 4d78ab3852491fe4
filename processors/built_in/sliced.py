"""``sliced``: attention for a few queries at a time, so that its memory is bounded."""

from __future__ import annotations

import torch

from ..kernels.kernel import Kernel
from ..registry import register_processor

#: Bytes that the scores of one slice may take.
MOST_BYTES = 2**27


@register_processor("sliced")
class SlicedProcessor(Kernel):
    """Exact, on every device: for pictures that are too large for the other ways. Never holds all scores at once."""

    as_operator = True

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        if k.shape[1] != q.shape[1]:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        batch, heads, queries, _ = q.shape
        out = q.new_empty(batch, heads, queries, v.shape[-1])
        keys = k.transpose(-2, -1)
        rows = max(1, MOST_BYTES // (4 * batch * heads * k.shape[2]))
        for start in range(0, queries, rows):
            part = slice(start, start + rows)
            scores = (q[:, :, part] @ keys).float().mul_(scale)
            if mask is not None:
                ours = mask if mask.shape[2] == 1 else mask[:, :, part]
                scores = scores.masked_fill_(~ours, float("-inf")) if mask.dtype == torch.bool else scores.add_(ours)
            out[:, :, part] = scores.softmax(-1).to(v.dtype) @ v
        return out
