"""Small calls of a processor as its site makes them, for running and for capturing it: such as it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ...processors import Processor
from ..mounted import Mounted
from ..probing.bench import geometry, options_for, site_stand_in
from ..probing.cases import FLAT, MASKS, SPLIT, Case, Mask
from ..probing.probe import probe
from ..probing.standin import stand_in
from ..weights import as_it_is, whole


@dataclass(frozen=True)
class Sizes:
    """Batch, height and width in tokens, and tokens of the prompt."""

    batch: int
    latent: tuple[int, int]
    prompt: int


#: The first sizes of each are captured, the others must not need another graph. The batch stays, since some halve it,
#: and 1 is a graph apart. Tokens are 16 and more, no two equal. Those at the end are for who takes no others: square
#: pictures, prompts of 77 tokens, one picture alone.
SIZES = (
    (Sizes(2, (4, 6), 20), Sizes(2, (5, 8), 33), Sizes(2, (2, 29), 27)),
    (Sizes(2, (6, 6), 20), Sizes(2, (8, 8), 33), Sizes(2, (5, 5), 27)),
    (Sizes(2, (4, 6), 77), Sizes(2, (5, 8), 154), Sizes(2, (2, 29), 231)),
    (Sizes(2, (6, 6), 77), Sizes(2, (8, 8), 77), Sizes(2, (5, 5), 77)),
    (Sizes(1, (4, 6), 20), Sizes(1, (5, 8), 33), Sizes(1, (2, 29), 27)),
    (Sizes(1, (6, 6), 77), Sizes(1, (8, 8), 77), Sizes(1, (5, 5), 77)),
)

#: The first mask that it takes is used.
_MASKS = tuple(sorted(MASKS, key=lambda mask: (mask.boolean, mask.dims == 3, mask.dims)))


@dataclass(frozen=True)
class Calls:
    """Makes the arguments of calls. ``processor`` is what is called: itself, or one with weights that fit. ``attn`` is
    the stand-in for the site's module, None at kernel level. ``others`` are further sizes, ``mask`` a form that it
    takes, None when there is none."""

    mounted: Mounted
    processor: Processor
    attn: nn.Module | None
    device: torch.device
    first: Sizes
    others: tuple[Sizes, ...]
    mask: Mask | None

    def arguments(self, sizes: Sizes | None = None, masked: bool = False) -> tuple:
        """Arguments of one call by position; tensors are random."""
        sizes = sizes or self.first
        batch, tokens = sizes.batch, sizes.latent[0] * sizes.latent[1]
        keys = sizes.prompt if self.mounted.site.kind == "cross" else tokens
        shape = geometry(self.mounted.site)
        mask, more = None, options_for(self.processor, batch, self.device)
        if masked and self.mask is not None:
            mask = self._new(*self.mask.shape(batch, shape.heads, tokens, keys))
            mask = mask > -1 if self.mask.boolean else mask
        if self.attn is not None:
            attn: Any = self.attn
            x = self._new(batch, tokens, attn.to_q.in_features)
            context = self._new(batch, keys, attn.to_k.in_features) if keys != tokens else None
            return (attn, x, context, mask, None, *more) if more else (attn, x, context, mask)
        heads, channels = shape.heads, shape.head_dim
        if self.mounted.site.has_projections:
            q, k, v = (self._new(batch, count, heads * channels) for count in (tokens, keys, keys))
            return (q, k, v, heads, mask, False, False, None, False, *more) if more else (q, k, v, heads, mask)
        q, k, v = (self._new(batch, heads, count, channels) for count in (tokens, keys, keys))
        apart = (q, k, v, heads, mask, True)  # skip_reshape, as most blocks without projections call
        return (*apart, False, None, False, *more) if more else apart

    def with_other_site(self) -> nn.Module | None:
        """The stand-in for another site of the same class and widths."""
        return None if self.attn is None else stand_in(self.attn, self.tensor)

    def _new(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=self.mounted.dtype, device=self.device)

    def tensor(self, like: torch.Tensor) -> torch.Tensor:
        """A weight itself where it can be computed with, else zeros of its shape."""
        return _tensor(like, self.mounted.dtype, self.device)


def calls_at(mounted: Mounted) -> Calls | None:
    """The calls of a processor at its site; None where a module-level one has nothing to project with, and where no
    small call is known that it takes."""
    own = next((t for t in (*mounted.module.parameters(), *mounted.module.buffers()) if not t.is_meta), None)
    device = mounted.device if own is None else own.device
    processor = mounted.processor
    if not whole(mounted) or mounted.evidence(as_it_is) is not None:
        fitting = stand_in(processor, lambda tensor: _tensor(tensor, mounted.dtype, device))
        processor = cast(Processor, fitting.eval())
    attn = None
    if mounted.level == "module":
        attn = site_stand_in(mounted.site, lambda tensor: _tensor(tensor, mounted.dtype, device))
        if attn is None:
            return None
    probed, projections = mounted.evidence(probe), mounted.site.has_projections

    def takes(sizes: Sizes, mask: Mask | None = None) -> bool:
        prompt = sizes.prompt if mounted.site.kind == "cross" else None
        layout = FLAT if projections else SPLIT
        return not probed.fails(Case(sizes.batch, prompt, sizes.latent, mask, mounted.dtype, layout))

    for first, *others in SIZES:
        if takes(first):
            mask = next((mask for mask in _MASKS if takes(first, mask)), None)
            return Calls(mounted, processor, attn, device, first, tuple(filter(takes, others)), mask)
    return None


def _tensor(like: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if like.device == device and (like.dtype == dtype or not like.is_floating_point()):
        return like.detach()
    return torch.zeros(like.shape, dtype=dtype if like.is_floating_point() else like.dtype, device=device)
