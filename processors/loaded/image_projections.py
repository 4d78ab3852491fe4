"""IP-Adapter's image projections: from a picture, as CLIP sees it, to tokens that a UNet attends to (Ye et al. 2023).

Modules have the names of the published files. ``operations`` makes their layers: PyTorch's, or ComfyUI's, which cast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ..built_in.shapes import merge_heads, split_heads

Shapes = Mapping[str, tuple[int, ...]]

#: Channels of a head in the resampler of "plus" files.
RESAMPLER_HEAD = 64


class ImageProjection(nn.Module):
    """``kind`` names the file, ``takes`` what it is given of a picture, ``width`` how many channels that has, and
    ``context`` how many its tokens have."""

    kind: str
    takes: str
    width: int
    context: int
    tokens: int

    #: Whether the empty side of a prompt is given zeros; else it needs an empty picture.
    zeros_are_empty = False


class Standard(ImageProjection):
    """One linear layer for the picture's embedding."""

    kind, takes, zeros_are_empty = "standard", "image_embeds", True

    def __init__(self, shapes: Shapes, operations: Any):
        super().__init__()
        wide, self.width = shapes["proj.weight"]
        (self.context,) = shapes["norm.weight"]
        self.tokens = wide // self.context
        self.proj = operations.Linear(self.width, wide)
        self.norm = operations.LayerNorm(self.context)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(pictures, channels) → (pictures, tokens, context)"""
        return self.norm(self.proj(x).reshape(len(x), self.tokens, self.context))


class Full(ImageProjection):
    """Two linear layers for each of the picture's hidden states ("full face")."""

    kind, takes = "full", "penultimate_hidden_states"

    def __init__(self, shapes: Shapes, operations: Any):
        super().__init__()
        inner, self.width = shapes["proj.0.weight"]
        (self.context,) = shapes["proj.3.weight"]
        self.tokens = 0  # as many as hidden states
        layers = (operations.Linear(self.width, inner), nn.GELU(), operations.Linear(inner, self.context))
        self.proj = nn.Sequential(*layers, operations.LayerNorm(self.context))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


class Plus(ImageProjection):
    """A resampler: a few latents attend to the picture's hidden states, again and again."""

    kind, takes = "plus", "penultimate_hidden_states"

    def __init__(self, shapes: Shapes, operations: Any):
        super().__init__()
        _, self.tokens, inner = shapes["latents"]
        self.width = shapes["proj_in.weight"][1]
        self.context = shapes["proj_out.weight"][0]
        depth = len({name.split(".")[1] for name in shapes if name.startswith("layers.")})
        self.latents = nn.Parameter(torch.empty(shapes["latents"]), requires_grad=False)
        self.proj_in = operations.Linear(self.width, inner)
        self.layers = nn.ModuleList(_layer(shapes, f"layers.{n}", inner, operations) for n in range(depth))
        self.proj_out = operations.Linear(inner, self.context)
        self.norm_out = operations.LayerNorm(self.context)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(pictures, hidden states, channels) → (pictures, tokens, context)"""
        latents = self.latents.to(x).repeat(len(x), 1, 1)
        x = self.proj_in(x)
        for layer in cast(Iterable[nn.ModuleList], self.layers):
            latents = layer[0](x, latents) + latents
            latents = layer[1](latents) + latents
        return self.norm_out(self.proj_out(latents))


def _layer(shapes: Shapes, name: str, inner: int, operations: Any) -> nn.ModuleList:
    wide = shapes[f"{name}.1.1.weight"][0]
    layers = (operations.Linear(inner, wide, bias=False), nn.GELU(), operations.Linear(wide, inner, bias=False))
    attention = _Attention(inner, shapes[f"{name}.0.to_q.weight"][0], operations)
    return nn.ModuleList([attention, nn.Sequential(operations.LayerNorm(inner), *layers)])


class _Attention(nn.Module):
    """Latents attend to hidden states and to themselves."""

    def __init__(self, inner: int, wide: int, operations: Any):
        super().__init__()
        self.norm1, self.norm2 = operations.LayerNorm(inner), operations.LayerNorm(inner)
        self.to_q = operations.Linear(inner, wide, bias=False)
        self.to_kv = operations.Linear(inner, 2 * wide, bias=False)
        self.to_out = operations.Linear(wide, inner, bias=False)

    def forward(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        latents = self.norm2(latents)
        k, v = self.to_kv(torch.cat((self.norm1(x), latents), dim=1)).chunk(2, dim=-1)
        q, k, v = (split_heads(one, RESAMPLER_HEAD) for one in (self.to_q(latents), k, v))
        return self.to_out(merge_heads(scaled_dot_product_attention(q, k, v)))


def projection_for(shapes: Shapes, operations: Any) -> ImageProjection | None:
    """The projection that has these tensors, with random weights; None where none has."""
    kinds = {"proj.weight": Standard, "latents": Plus, "proj.3.weight": Full}
    kind = next((kind for name, kind in kinds.items() if name in shapes), None)
    try:
        made = kind(shapes, operations) if kind is not None else None
    except (KeyError, IndexError, ValueError, RuntimeError, TypeError, ZeroDivisionError):  # sizes that fit nothing
        return None
    if made is None:
        return None
    own = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    return made if own == dict(shapes) else None
