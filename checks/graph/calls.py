"""Small calls of a processor as its site makes them, for running and for capturing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..mounted import Mounted
from ..probing.bench import geometry, site_stand_in
from ..probing.standin import stand_in

#: Batch, tokens and prompt tokens: the first are captured, the others must not need another graph. The batch stays,
#: since some halve it, and 1 is a graph apart. Tokens are 16 and more, no two equal.
FIRST, OTHERS = (2, 24, 20), ((2, 40, 33), (2, 58, 27))


@dataclass(frozen=True)
class Calls:
    """Makes the arguments of calls. ``attn`` is the stand-in for the site's module, None at kernel level."""

    mounted: Mounted
    attn: nn.Module | None
    device: torch.device

    def arguments(self, sizes: tuple[int, int, int] = FIRST, masked: bool = False) -> tuple:
        """Arguments of one call by position; tensors are random."""
        batch, tokens, prompt = sizes
        keys = prompt if self.mounted.site.kind == "cross" else tokens
        mask = self._new(tokens, keys) if masked else None
        if self.attn is not None:
            attn: Any = self.attn
            x = self._new(batch, tokens, attn.to_q.in_features)
            context = self._new(batch, keys, attn.to_k.in_features) if keys != tokens else None
            return attn, x, context, mask
        shape = geometry(self.mounted.site)
        heads, channels = shape.heads, shape.head_dim
        if self.mounted.site.has_projections:
            q, k, v = (self._new(batch, count, heads * channels) for count in (tokens, keys, keys))
            return q, k, v, heads, mask
        q, k, v = (self._new(batch, heads, count, channels) for count in (tokens, keys, keys))
        return q, k, v, heads, mask, True  # skip_reshape, as most blocks without projections call

    def with_other_site(self) -> Calls:
        """The same calls at another site of the same class and widths."""
        return Calls(self.mounted, None if self.attn is None else stand_in(self.attn, self.tensor), self.device)

    def _new(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=self.mounted.dtype, device=self.device)

    def tensor(self, like: torch.Tensor) -> torch.Tensor:
        """A weight itself where it can be computed with, else zeros of its shape."""
        if like.device == self.device and like.dtype == self.mounted.dtype:
            return like.detach()
        return torch.zeros(like.shape, dtype=self.mounted.dtype, device=self.device)


def calls_at(mounted: Mounted) -> Calls | None:
    """The calls of a processor at its site, None where a module-level one has nothing to project with."""
    own = next((t for t in (*mounted.module.parameters(), *mounted.module.buffers())), None)
    calls = Calls(mounted, None, mounted.device if own is None else own.device)
    if mounted.level == "kernel":
        return calls
    attn = site_stand_in(mounted.site, calls.tensor)
    return None if attn is None else Calls(mounted, attn, calls.device)
