"""Finding and choosing attention sites of the host's own models."""

from __future__ import annotations

import pytest
from onediff_pack.processors import UnknownSites, find_sites, select_sites

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture(scope="module")
def unet():
    from models import unet_patcher

    return unet_patcher().model.diffusion_model


@pytest.fixture(scope="module")
def flux():
    from models import flux_patcher

    return flux_patcher().model.diffusion_model


def test_unet_sites_are_its_cross_attention_modules(unet):
    sites = find_sites(unet)
    assert len(sites) == 14  # 7 transformer blocks, attn1 and attn2 each
    assert {type(site.module).__name__ for site in sites} == {"CrossAttention"}
    assert all(site.has_projections for site in sites)
    assert [site.kind for site in sites[:2]] == ["self", "cross"]
    assert sites[0].path == "input_blocks.1.1.transformer_blocks.0.attn1"


def test_flux_sites_are_its_blocks(flux):
    sites = find_sites(flux)
    assert [site.path for site in sites] == [
        *("double_blocks.0", "double_blocks.1"),
        *("single_blocks.0", "single_blocks.1", "single_blocks.2"),
    ]
    assert not any(site.has_projections for site in sites)


@pytest.mark.parametrize(
    ("kind", "blocks", "count"),
    [("all", "", 14), ("self", "", 7), ("cross", "middle_block", 1), ("all", "output_blocks.*, middle_block.1.*", 10)],
)
def test_filters(unet, kind, blocks, count):
    assert len(select_sites(find_sites(unet), kind, blocks)) == count


def test_an_unknown_glob_names_near_matches(unet):
    with pytest.raises(UnknownSites, match=r"'middle_blok' matches no attention site.*middle_block") as caught:
        select_sites(find_sites(unet), "all", "input_blocks.1, middle_blok")
    assert caught.value.glob == "middle_blok"
    assert "middle_block" in caught.value.near
