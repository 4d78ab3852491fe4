"""Which blocks become regions, in the host's own models."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from onediff_pack.compilers.blocks.regions import find_regions
from onediff_pack.processors import find_sites

pytestmark = pytest.mark.usefixtures("host")


def regions_of(model, scope="blocks"):
    return find_regions(model, find_sites(model), scope)


def classes(regions):
    return Counter(type(region.module).__name__ for region in regions)


def test_sd15_in_full_size():
    import comfy.ops
    import models
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    config = {
        **models.UNET,
        "model_channels": 320,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "context_dim": 768,
        "num_heads": 8,
    }
    unet = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)
    regions = regions_of(unet)
    assert classes(regions) == {"ResBlock": 22, "BasicTransformerBlock": 16}
    assert len({region.signature for region in regions}) == 15
    assert classes(regions_of(unet, "attention")) == {"CrossAttention": 32}


def test_flux():
    import models

    regions = regions_of(models.flux_patcher().model.diffusion_model)
    assert [region.path for region in regions][:3] == ["double_blocks.0", "double_blocks.1", "single_blocks.0"]
    assert classes(regions) == {"DoubleStreamBlock": 2, "SingleStreamBlock": 3}
    assert len({region.signature for region in regions}) == 2


def test_no_region_lies_in_another():
    import models

    paths = [region.path for region in regions_of(models.unet_patcher().model.diffusion_model)]
    assert not [(a, b) for a in paths for b in paths if a != b and b.startswith(f"{a}.")]


class Two(torch.nn.Module):
    """A block of two layers without attention."""

    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = torch.nn.Linear(8, width), torch.nn.Linear(width, 8)

    def forward(self, x):
        return self.down(self.up(x))


def test_repeated_blocks_without_attention_are_regions_when_they_are_heavy():
    single = torch.nn.Linear(8, 8)
    model = torch.nn.Sequential(torch.nn.Sequential(Two(64), single, Two(64)), torch.nn.Linear(8, 8))
    assert [region.path for region in regions_of(model)] == ["0.0", "0.2"]
    model.append(torch.nn.Linear(8, 20000))  # now they hold less than 2 % of the weight
    assert regions_of(model) == []


def test_a_heavy_block_that_is_not_repeated_is_no_region():
    """Compiling it would be paid for once and gain once."""
    model = torch.nn.Sequential(torch.nn.Sequential(Two(64), torch.nn.Linear(8, 8)), torch.nn.Linear(8, 8))
    assert regions_of(model) == []


def test_a_vae_has_blocks_at_every_depth_and_in_its_middle():
    """Plain modules that only hold others are no blocks: nobody calls them."""
    import vaes

    regions = regions_of(vaes.VAES["SD"].model())
    assert classes(regions) == {"ResnetBlock": 3 + 2 + 6 + 2, "AttnBlock": 2}
    paths = [region.path for region in regions]
    assert {"decoder.mid.block_1", "decoder.mid.attn_1", "decoder.up.0.block.1"} <= {*paths}
    assert not [(a, b) for a in paths for b in paths if a != b and b.startswith(f"{a}.")]
