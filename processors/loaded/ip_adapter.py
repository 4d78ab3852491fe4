"""IP-Adapter: at each cross-attention, the picture's tokens are attended to as well, and the result is added."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from ..built_in.shapes import merge_heads, split_heads
from ..contract import Processor
from ..site_calls import Because
from .image_projections import ImageProjection, projection_for

#: Index of the prompt that is wanted, and of the negative one, in what was computed for both.
COND, UNCOND = 0, 1


class Weights(nn.Module):
    """What a file holds: ``image_proj``, and keys and values for each cross-attention by its number in the file."""

    image_proj: ImageProjection

    def __init__(self, image_proj: ImageProjection, sites: Mapping[int, tuple[int, int]], operations: Any):
        super().__init__()
        self.image_proj = image_proj
        self.ip_adapter = nn.ModuleDict(
            {
                str(number): nn.ModuleDict(
                    {name: operations.Linear(context, inner, bias=False) for name in ("to_k_ip", "to_v_ip")}
                )
                for number, (inner, context) in sites.items()
            }
        )

    @property
    def numbers(self) -> list[int]:
        return sorted(map(int, self.ip_adapter))

    def inner(self, number: int) -> int:
        """Channels of the keys at a cross-attention."""
        layer: Any = self.ip_adapter[str(number)]
        return layer["to_k_ip"].weight.shape[0]

    def keys_and_values(self, number: int, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layer: Any = self.ip_adapter[str(number)]
        return layer["to_k_ip"](tokens), layer["to_v_ip"](tokens)


def weights_of(tensors: Mapping[str, torch.Tensor], operations: Any) -> Weights | None:
    """The weights of a file; None where its tensors do not fit together."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    own = {name.removeprefix("image_proj."): shape for name, shape in shapes.items() if name.startswith("image_proj.")}
    projection = projection_for(own, operations)
    sites = {int(name.split(".")[1]): shape for name, shape in shapes.items() if name.endswith(".to_k_ip.weight")}
    if projection is None or not all(len(shape) == 2 and shape[1] == projection.context for shape in sites.values()):
        return None
    made = Weights(projection, sites, operations)  # type: ignore[arg-type]  # two sizes each, as was seen
    if {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()} != shapes:
        return None
    made.load_state_dict(dict(tensors), assign=True)
    return made.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Picture:
    """What is to be seen in the result. ``cond`` and ``uncond`` are what CLIP gave for the picture and for an empty one
    (None: the negative prompt sees no picture), ``mask`` (masks, height, width) says where; ``start`` and ``end`` are
    parts of the sampling, 0 to 1."""

    cond: torch.Tensor
    uncond: torch.Tensor | None = None
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mask: torch.Tensor | None = None

    @cached_property
    def is_masked_out(self) -> bool:
        return self.mask is not None and not bool(self.mask.any())


def _adds_nothing(picture: Picture) -> Because | None:
    """Why a picture is seen nowhere, whatever is sampled."""
    if picture.weight == 0:
        return "weight"
    if picture.start > picture.end:
        return "range"
    return "mask" if picture.is_masked_out else None


@dataclass
class _Now(threading.local):
    """The model call that goes on: the weight of each picture, which prompts are in the batch, the latent's size."""

    factors: Sequence[float] = ()
    prompts: tuple[int, ...] = (COND,)
    size: tuple[int, int] = (0, 0)


class ImageAttention(Processor):
    """Attention to the tokens of pictures, at the sites of one patch, to be added to what a site gives.

    ``numbers`` are the sites' in the file, by path. Keys and values are computed once a sampling.
    """

    level = "kernel"

    def __init__(self, weights: Weights, numbers: Mapping[str, int], pictures: Sequence[Picture], strength: float):
        super().__init__()
        self._held = (weights,)  # no part of this module: ComfyUI's memory management has them
        self.numbers, self.pictures, self.strength = dict(numbers), tuple(pictures), strength
        self.now = _Now()
        self.forget()

    @property
    def weights(self) -> Weights:
        return self._held[0]

    def forget(self) -> None:
        """Lets go of what was computed for a sampling."""
        self._tokens: dict[tuple, torch.Tensor] = {}
        self._known: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
        self._masks: dict[tuple, torch.Tensor] = {}
        self._acted = False

    def without_effect(self) -> Because | None:
        """Why no picture was seen in any model call of this sampling: the reason of the first."""
        if self.strength == 0:
            return "strength"
        if self._acted:
            return None
        return next((why for why in map(_adds_nothing, self.pictures) if why is not None), "no step")

    def begin_call(self, options: Mapping[str, Any], size: tuple[int, int], base_model: Any) -> None:
        """Before each model call: which pictures act at this noise level, and on what."""
        sampling = getattr(base_model, "model_sampling", None)
        sigma: float | None = None
        factors = []
        for picture in self.pictures:
            factor = picture.weight * self.strength
            if factor and (picture.start > 0 or picture.end < 1) and "sigmas" in options and sampling is not None:
                sigma = float(options["sigmas"][0]) if sigma is None else sigma
                begin, end = sampling.percent_to_sigma(picture.start), sampling.percent_to_sigma(picture.end)
                factor = factor if end <= sigma <= begin else 0.0
            factors.append(factor)
            self._acted = self._acted or (factor != 0 and not picture.is_masked_out)
        self.now.factors, self.now.size = factors, size
        self.now.prompts = tuple(options.get("cond_or_uncond") or (COND,))

    def forward(self, q: torch.Tensor, heads: int, path: str) -> torch.Tensor:
        """What is added to a site's attention: (batch, tokens, heads * head_dim), as ``q`` is."""
        added: torch.Tensor | None = None
        with torch.no_grad():
            split = split_heads(q, q.shape[-1] // heads)
            for which, factor in enumerate(self.now.factors):
                if factor == 0:
                    continue
                rows = self._rows(len(q))
                k, v = self._keys_and_values(which, path, heads, q, rows)
                one = merge_heads(scaled_dot_product_attention(split, k, v)) * factor
                where = self._where(which, q, rows)
                one = one if where is None else one * where
                added = one if added is None else added + one
        return q.new_zeros(q.shape) if added is None else added

    def _rows(self, batch: int) -> tuple[int, ...]:
        """Which prompt each row of the batch belongs to."""
        prompts = self.now.prompts
        if batch % len(prompts):  # another node has put something else together
            return (COND,) * batch
        return tuple(prompt for prompt in prompts for _ in range(batch // len(prompts)))

    def _keys_and_values(
        self, which: int, path: str, heads: int, q: torch.Tensor, rows: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each (batch, heads, image tokens, head_dim)."""
        key = (which, path, q.device, q.dtype, rows)
        if key not in self._known:
            tokens = self._tokens_of(which, q.device)
            both = [one.to(q.dtype) for one in self.weights.keys_and_values(self.numbers[path], tokens)]
            index = torch.tensor([min(row, len(tokens) - 1) for row in rows], device=q.device)
            k, v = (split_heads(one, one.shape[-1] // heads)[index].contiguous() for one in both)
            self._known[key] = k, v
        return self._known[key]

    def _tokens_of(self, which: int, device: torch.device) -> torch.Tensor:
        """(1 or 2, image tokens, context): of the pictures, one after the other, and of the empty one."""
        key = (which, device)
        if key not in self._tokens:
            picture, project = self.pictures[which], self.weights.image_proj
            sides = [picture.cond]
            if picture.uncond is not None:
                sides.append(picture.uncond.expand_as(picture.cond))
            elif project.zeros_are_empty:
                sides.append(torch.zeros_like(picture.cond))
            tokens = [project(side.to(device, torch.float32)).reshape(1, -1, project.context) for side in sides]
            self._tokens[key] = torch.cat(tokens)
        return self._tokens[key]

    def _where(self, which: int, q: torch.Tensor, rows: tuple[int, ...]) -> torch.Tensor | None:
        """Factors of (batch, tokens or 1, 1); None where all are 1."""
        picture = self.pictures[which]
        unseen = len(self._tokens_of(which, q.device)) == 1 and any(rows)
        if picture.mask is None and not unseen:
            return None
        key = (which, q.device, q.dtype, rows, q.shape[1], self.now.size)
        if key not in self._masks:
            where = q.new_ones((len(rows), 1, 1))
            if picture.mask is not None:
                height, width = grid(q.shape[1], self.now.size)
                mask = picture.mask.to(q.device, torch.float32).unsqueeze(1)  # (masks, 1, height, width)
                shrinks = mask.shape[-2] >= height and mask.shape[-1] >= width
                sized = interpolate(mask, size=(height, width), mode="area" if shrinks else "bilinear")
                of_row = torch.arange(len(rows), device=q.device) % max(len(rows) // len(self.now.prompts), 1)
                where = sized.reshape(len(mask), -1, 1)[of_row % len(mask)].to(q.dtype)
            if unseen:
                where = where * torch.tensor([row == COND for row in rows], device=q.device).reshape(-1, 1, 1)
            self._masks[key] = where
        return self._masks[key]


def grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a site's tokens in a latent of that size: ``grid(24, (8, 12))`` is ``(4, 6)``."""
    height, width = size
    while height * width > tokens:
        height, width = (height + 1) // 2, (width + 1) // 2  # as a convolution with stride 2 does
    if height * width == tokens:
        return height, width
    whole = size[0] / max(size[1], 1)
    pairs = [(n, tokens // n) for n in range(1, tokens + 1) if tokens % n == 0]
    return min(pairs, key=lambda pair: abs(pair[0] / pair[1] - whole))
