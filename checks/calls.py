"""Small calls of a processor as its site makes them, for running and for capturing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .mounted import Mounted

#: Batch, tokens and prompt tokens: the first are captured, the others must not need another graph. The batch stays,
#: since some halve it, and 1 is a graph apart. Tokens are 16 and more, no two equal.
FIRST, OTHERS = (2, 24, 20), ((2, 40, 33), (2, 58, 27))

#: Heads and channels of a head where the site does not tell; any number shows the same.
HEADS, HEAD_DIM = 2, 64


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
        module = self.mounted.site.module
        heads = next((n for name in ("heads", "num_heads") if isinstance(n := getattr(module, name, 0), int)), 0)
        heads = heads or HEADS
        channels = self.mounted.site.head_dim or HEAD_DIM
        if self.mounted.site.has_projections:
            q, k, v = (self._new(batch, count, heads * channels) for count in (tokens, keys, keys))
            return q, k, v, heads, mask
        q, k, v = (self._new(batch, heads, count, channels) for count in (tokens, keys, keys))
        return q, k, v, heads, mask, True  # skip_reshape, as most blocks without projections call

    def with_other_site(self) -> Calls:
        """The same calls at another site of the same class and widths."""
        return Calls(self.mounted, None if self.attn is None else copied(self.attn, self), self.device)

    def _new(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=self.mounted.dtype, device=self.device)

    def tensor(self, like: torch.Tensor) -> torch.Tensor:
        """A weight itself where it can be computed with, else zeros of its shape."""
        if like.device == self.device and like.dtype == self.mounted.dtype:
            return like
        return torch.zeros(like.shape, dtype=self.mounted.dtype, device=self.device)


def calls_at(mounted: Mounted) -> Calls | None:
    """The calls of a processor at its site, None where a module-level one has nothing to project with."""
    own = next((t for t in (*mounted.module.parameters(), *mounted.module.buffers())), None)
    calls = Calls(mounted, None, mounted.device if own is None else own.device)
    if mounted.level == "kernel":
        return calls
    if not mounted.site.has_projections:
        return None
    return Calls(mounted, copied(mounted.site.module, calls), calls.device)


def copied(module: nn.Module, calls: Calls) -> nn.Module:
    """A module of the same class and attributes that shares what weights it can, without hooks and patches. Layers that
    the host derives from nn.Linear to cast their weights become plain ones: their code is not what is looked at."""
    if isinstance(module, nn.Linear):
        copy: nn.Module = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
    else:
        copy = object.__new__(type(module))
        nn.Module.__init__(copy)
        own = {name: value for name, value in module.__dict__.items() if name not in copy.__dict__}
        copy.__dict__.update(own)
        copy.__dict__.pop("forward", None)
    copy.train(module.training)
    for name, parameter in module._parameters.items():
        made = None if parameter is None else nn.Parameter(calls.tensor(parameter.detach()), requires_grad=False)
        copy._parameters[name] = made
    for name, buffer in module._buffers.items():
        copy._buffers[name] = None if buffer is None else calls.tensor(buffer)
    for name, child in _children(module):
        copy._modules[name] = copied(child, calls)
    return copy


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, child) for name, child in module._modules.items() if child is not None)
