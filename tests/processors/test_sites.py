"""Finding and choosing attention sites of the host's own models."""

from __future__ import annotations

import time

import pytest
from onediff_pack.processors import BlocksTooLong, Site, UnknownSites, find_sites, select_sites
from onediff_pack.processors.sites.find import computes_attention
from onediff_pack.processors.sites.globs import Glob
from torch import nn

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


def test_without_a_choice_all_sites_are_meant(unet):
    sites = find_sites(unet)
    assert select_sites(sites) == sites
    assert {site.kind for site in select_sites(sites, "cross")} == {"cross"}


@pytest.mark.parametrize(
    ("glob", "said"),
    [
        ("double_block.1", "Near matches: double_blocks.1, double_blocks.0, double_blocks. Leave"),
        ("doubel_blocks.*", "Near matches: double_blocks, "),
        ("*.q", "this model. Leave it empty for all sites."),
    ],
)
def test_at_most_three_near_matches_are_paths_or_the_leading_parts_of_some(glob, said):
    sites = [Site(f"double_blocks.{n}.attn", nn.Identity(), "self", False) for n in range(2)]
    with pytest.raises(UnknownSites) as refused:
        select_sites(sites, "all", glob)
    assert said in str(refused.value)


def test_an_unknown_glob_names_near_matches(unet):
    with pytest.raises(UnknownSites, match=r"'middle_blok' matches no attention site.*middle_block") as caught:
        select_sites(find_sites(unet), "all", "input_blocks.1, middle_blok")
    assert caught.value.glob == "middle_blok"
    assert "middle_block" in caught.value.near


@pytest.mark.parametrize(
    ("glob", "matches"),
    [
        ("a.b", ["a.b", "a.b.c"]),
        ("a.*", ["a.b", "a.b.c"]),
        ("*.c", ["a.b.c", "x.a.c"]),
        ("?.b", ["a.b", "a.b.c"]),
        ("[!a].a", ["x.a.c"]),
        ("[v-x]*", ["x.a.c"]),
        ("a*c", ["a.b.c", "a*c"]),
        ("a[*]c", ["a*c"]),
        ("[a", ["[a"]),
        ("*a*a*", []),
    ],
)
def test_a_glob_means_what_it_means_elsewhere_and_everything_below(glob, matches):
    assert [path for path in ("a.b", "a.b.c", "x.a.c", "a*c", "[a") if Glob(glob).matches(path)] == matches


@pytest.mark.parametrize(
    "glob", ["[" * 2_000, "*a" * 999 + "*b", "*a*a*a*a*a*a*a*a*b", "*?*[a-z]*?*[!x]*zz", "[" * 1999 + "]"]
)
def test_no_glob_takes_long(glob):
    sites = [Site(f"{'a' * 200}.{n}", nn.Identity(), "self", False) for n in range(100)]
    start = time.process_time()
    with pytest.raises(UnknownSites):
        select_sites(sites, "all", glob)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("glob", ["*a" * 999 + "*b", "?" * 1_999 + "b", "[a-y]" * 399 + "*z"])
def test_no_glob_over_many_long_paths_takes_long_and_cancel_ends_it_within_one(glob):
    sites = [Site(f"{'a' * 2_000}{'.x' * 50}.{n}", nn.Identity(), "self", False) for n in range(300)]
    asked = [0]

    def count():
        asked[0] += 1

    start = time.process_time()
    with pytest.raises(UnknownSites):
        select_sites(sites, "all", glob, count)
    assert time.process_time() - start < 2
    assert asked[0] > 100


def test_more_letters_than_anybody_types_are_refused_and_many_globs_can_be_cancelled(unet):
    start = time.process_time()
    with pytest.raises(BlocksTooLong, match=r"blocks has 100,000 letters; 2,000 are the most") as refused:
        select_sites(find_sites(unet), "all", "[" * 100_000)
    assert refused.value.length == 100_000
    assert time.process_time() - start < 2

    def cancel():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        select_sites(find_sites(unet), "all", "*, middle_block", cancel)


def optimized_attention(q, k, v, heads):
    """Named as ComfyUI's, by which sites are found."""
    return q


def test_another_forward_on_a_class_counts_only_while_it_is_there(monkeypatch):
    class Attends(nn.Module):
        def forward(self, x):
            return optimized_attention(x, x, x, 1)

    with monkeypatch.context() as patch:
        patch.setattr(Attends, "forward", lambda self, x: x)
        assert not computes_attention(Attends)
    assert computes_attention(Attends)
