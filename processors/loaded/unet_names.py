"""A UNet's attention as diffusers names and orders it, by which published files name their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from ..sites.find import Site


def by_diffusers_name(diffusion_model: nn.Module, sites: Iterable[Site]) -> dict[str, Site]:
    """The sites of a UNet by diffusers' names ("down_blocks.0.attentions.0.transformer_blocks.0.attn2"), in diffusers'
    order: down, up, middle. Empty for a model that is no such UNet."""
    known = [site for site in sites if ".transformer_blocks." in site.path and site.has_projections]
    if not all(hasattr(diffusion_model, name) for name in ("input_blocks", "middle_block", "output_blocks")):
        return {}
    model: Any = diffusion_model
    found = {
        **dict(_named(known, "input_blocks", "down_blocks", model.input_blocks, "Downsample")),
        **dict(_named(known, "output_blocks", "up_blocks", model.output_blocks, "Upsample")),
    }
    for site in known:
        parts = site.path.split(".")
        if parts[0] == "middle_block":
            found[f"mid_block.attentions.0.{'.'.join(parts[2:])}"] = site
    return found


def cross_sites(diffusion_model: nn.Module, sites: Iterable[Site]) -> list[Site]:
    """The cross-attention of a UNet, in diffusers' order."""
    named = by_diffusers_name(diffusion_model, sites)
    return [site for name, site in named.items() if name.endswith(".attn2")]


def _named(
    sites: list[Site], ours: str, theirs: str, blocks: Iterable[nn.Module], ends: str
) -> Iterator[tuple[str, Site]]:
    """diffusers numbers the resolutions, and the transformers of each, where ComfyUI numbers all layers in a row."""
    level, transformer = 0, 0
    for number, block in enumerate(blocks):
        here = [site for site in sites if site.path.startswith(f"{ours}.{number}.")]
        for site in here:
            yield f"{theirs}.{level}.attentions.{transformer}.{'.'.join(site.path.split('.')[3:])}", site
        transformer += bool(here)
        if any(type(child).__name__ == ends for child in block.children()):
            level, transformer = level + 1, 0
