"""What enters a compiled block of transformer_options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from onediff_pack.compilers.blocks.transformer_options import Reads, Unfit, in_key, resolve, watched


def reads_of(block, options) -> Reads:
    reads = Reads()
    block(watched(options, reads))
    return reads


def unet_like(options):
    """Reads as BasicTransformerBlock does: copies everything, looks patches up, passes the rest on."""
    extra, patches, replacements = {}, {}, {}
    for key in options:
        if key == "patches":
            patches = options[key]
        elif key == "patches_replace":
            replacements = options[key]
        else:
            extra[key] = options[key]
    options.get("block"), options.get("block_index", 0)
    options.copy()["img_slice"] = [0, 1]  # as Flux's blocks do
    return "attn1_patch" in patches, replacements.get("attn2", {}), {**options, "mine": 1}, extra


OPTIONS = {"sigmas": torch.ones(2), "block": ("input", 1), "block_index": 0, "cond_or_uncond": [0, 1], "theirs": 3}


def patch(*args):
    return args


def test_copying_is_not_reading():
    reads = reads_of(unet_like, OPTIONS)
    assert reads.keys <= {"block", "block_index", "patches", "patches_replace"}
    assert (reads.patches, reads.replacements, reads.written) == ({"attn1_patch"}, {"attn2"}, set())
    assert resolve(OPTIONS, reads) == {}


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ({"optimized_attention_override": patch}, "test_options:patch"),
        ({"patches": {"attn1_patch": [patch]}}, "self-attention input patch on it"),
        ({"patches_replace": {"attn2": {("input", 1): patch}}}, "replaced attn2 in it"),
        ({"patches_replace": {"attn2": {("input", 1, 0): patch}}}, "replaced attn2 in it"),
    ],
)
def test_what_acts_on_the_block_makes_it_run_uncompiled(added, reason):
    resolved = resolve({**OPTIONS, **added}, reads_of(unet_like, OPTIONS))
    assert isinstance(resolved, Unfit)
    assert reason in resolved


@pytest.mark.parametrize(
    "added",
    [
        {"patches": {"output_block_patch": [patch]}},
        {"patches": {"attn1_patch": []}},
        {"patches_replace": {"attn2": {("output", 1): patch, ("input", 1, 3): patch}}},
    ],
)
def test_what_acts_elsewhere_does_not(added):
    assert resolve({**OPTIONS, **added}, reads_of(unet_like, OPTIONS)) == {}


def test_a_plain_value_that_the_block_reads_enters():
    reads = reads_of(lambda options: options.get("run_vx", True), OPTIONS)
    assert resolve(OPTIONS, reads) == {}
    assert resolve({**OPTIONS, "run_vx": False}, reads) == {"run_vx": False}


def test_a_tensor_that_the_block_reads_enters_and_its_numbers_are_no_part_of_the_key():
    reads = reads_of(lambda options: options["sigmas"], OPTIONS)
    entering: list[Any] = [resolve({**OPTIONS, "sigmas": one}, reads) for one in (OPTIONS["sigmas"], torch.zeros(2))]
    plain: Any = resolve({**OPTIONS, "sigmas": 1.0}, reads)
    assert [list(one) for one in entering] == [["sigmas"], ["sigmas"]]
    assert entering[1]["sigmas"].sum() == 0
    assert len({in_key(one) for one in entering}) == 1
    assert in_key(entering[0]) != in_key(plain) != in_key({})


@pytest.mark.parametrize("value", [[0, 1], {}, torch.nn.Parameter(torch.ones(2))])
def test_what_may_be_anything_cannot_enter(value):
    reads = reads_of(lambda options: options["theirs"], OPTIONS)
    resolved = resolve({**OPTIONS, "theirs": value}, reads)
    assert resolved == f"it reads transformer_options['theirs'], a {type(value).__name__} that may change every step."


def test_a_block_that_writes_runs_uncompiled():
    def writes(options):
        options["grid_sizes"] = (1, 2)

    assert resolve(OPTIONS, reads_of(writes, OPTIONS)) == "it writes to transformer_options: grid_sizes."


@pytest.mark.parametrize("copied", [dict, lambda options: {**options}, lambda options: options.copy()])
def test_reading_from_a_copy_is_reading(copied):
    assert reads_of(lambda options: copied(options)["theirs"], OPTIONS).keys == {"theirs"}
    assert reads_of(lambda options: copied(options).get("theirs"), OPTIONS).keys == {"theirs"}
    assert reads_of(lambda options: "theirs" in copied(options), OPTIONS).keys == {"theirs"}
    assert reads_of(copied, OPTIONS).keys == set()
    assert reads_of(lambda options: copied(copied(options)), OPTIONS).keys == set()
    patches = reads_of(lambda options: copied(options["patches"]).get("attn1_patch"), {"patches": {"attn1_patch": []}})
    assert patches.patches == {"attn1_patch"}


@pytest.mark.parametrize(
    "write",
    [
        lambda options: options.update(grid=(1, 2)),
        lambda options: options.__setitem__("grid", (1, 2)),
        lambda options: options.setdefault("grid", (1, 2)),
        lambda options: options.__ior__({"grid": (1, 2)}),
    ],
)
def test_what_a_watched_block_writes_reaches_the_blocks_after_it(write):
    options, reads = dict(OPTIONS), Reads()
    write(watched(options, reads))
    assert options["grid"] == (1, 2)
    assert reads.written == {"grid"}


def test_what_a_watched_block_takes_away_is_gone_for_the_blocks_after_it():
    options, reads = dict(OPTIONS), Reads()
    copy = watched(options, reads)
    assert copy.pop("theirs") == 3
    del copy["sigmas"]
    assert options.keys() == OPTIONS.keys() - {"theirs", "sigmas"}
    assert reads.written == {"theirs", "sigmas"}
