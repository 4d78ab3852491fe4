"""How far the pictures of two samplings are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Difference:
    """How far the final latents of two samplings are apart. ``relative`` is ‖a-b‖₂/‖b‖₂; both are infinite when one
    has NaN or Inf where the other has not, or another shape."""

    max_abs: float
    relative: float

    def as_dict(self) -> dict[str, float | None]:
        """JSON has no infinity: it is null there."""
        return {
            "max_abs": self.max_abs if math.isfinite(self.max_abs) else None,
            "relative": self.relative if math.isfinite(self.relative) else None,
        }


def difference(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> Difference:
    """Difference of two final latents, each a list of tensors (video models have several)."""
    if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        return Difference(math.inf, math.inf)
    a = torch.cat([tensor.detach().double().cpu().flatten() for tensor in ours])
    b = torch.cat([tensor.detach().double().cpu().flatten() for tensor in theirs])
    finite = torch.isfinite(b)
    if not torch.equal(torch.isfinite(a), finite):
        return Difference(math.inf, math.inf)
    a, b = torch.where(finite, a, 0), torch.where(finite, b, 0)
    size, apart = b.norm().item(), (a - b).norm().item()
    relative = apart / size if size else (0.0 if apart == 0 else math.inf)
    return Difference((a - b).abs().max().item() if a.numel() else 0.0, relative)
