"""The soak: what it changes, what pictures are held against, how it goes on, and what it makes of a wrong one."""

from __future__ import annotations

import json
from array import array
from itertools import islice

import pytest

from benchmarks.soaking.clients import grown, windows
from benchmarks.soaking.servers import difference
from benchmarks.soaking.shrinking import shrunk
from benchmarks.soaking.soaking import done_before
from benchmarks.soaking.workflow import FAMILIES, Change, Workflow, changes, first, prompt

NAN, INF = float("nan"), float("inf")
USUAL = ("lora", "override", "replacement", "patch", "compile")
PATCH_FIRST = ("lora", "patch", "override", "replacement", "compile")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_a_seed_gives_the_same_changes_each_time_and_comes_to_every_field(family):
    found = list(islice(changes(family, 3), 300))
    assert found == list(islice(changes(family, 3), 300)) != list(islice(changes(family, 4), 300))
    workflow, still = first(3), 0
    for change in found:
        after = change.of(workflow)
        still += after == workflow
        workflow = after
    assert still <= sum(change.field == "order" for change in found) / 20, "a change that changes nothing"
    fields = {"processor", "sites", "patch", "compile", "scope", "lora", "override", "replacement"}
    assert {change.field for change in found} == fields | {"size", "batch", "tokens", "cfg", "other_model", "order"}


def test_half_of_the_seeds_keep_what_is_slower():
    assert [first(seed).keep_faster for seed in range(4)] == [True, False, True, False]


def kinds(**values):
    """Node classes between the loader and the sampler, ours and then without ours, in the order of the links."""
    found = []
    for stock in (False, True):
        nodes, at, passed = prompt(FAMILIES["sd15"], Workflow(**values), 1, stock), "sampler", []
        while "model" in nodes[at]["inputs"]:
            at = nodes[at]["inputs"]["model"][0]
            passed.insert(0, nodes[at]["class_type"])
        found.append(passed[1:])
    return found


def test_what_a_picture_is_held_against_has_none_of_our_nodes():
    ours, stock = kinds(lora=0.5, replacement=0.5, order=PATCH_FIRST)
    assert ours == ["LoraLoaderModelOnly", "OneDiffPatchAttention", "SoakReplacement", "OneDiffCompile"]
    assert stock == ["LoraLoaderModelOnly", "SoakReplacement"]
    assert kinds(patch=False, compile=False) == [[], []]


@pytest.mark.parametrize(
    "values, inside, outside",
    [
        ({"processor": "custom/attention:HalfKernel"}, 0.5, 1.0),
        ({"processor": "custom/attention:HalfKernel", "override": 0.8, "order": USUAL}, 0.5, 0.8),
        ({"processor": "custom/attention:HalfKernel", "override": 0.8, "order": PATCH_FIRST}, 0.8, 0.8),
        ({"processor": "sdpa", "override": 0.8, "order": USUAL}, 1.0, 0.8),
        ({"processor": "auto", "override": 0.8, "order": USUAL}, 0.8, 0.8),
        ({"processor": "sdpa", "override": 0.8, "patch": False}, 0.8, 0.8),
    ],
)
def test_it_is_known_whose_attention_computes_at_patched_sites(values, inside, outside):
    nodes = prompt(FAMILIES["sd15"], Workflow(sites=2, **values), 1, stock=True)
    inputs = nodes["override"]["inputs"]
    assert (inputs["inside"], inputs["outside"]) == (inside, outside)
    assert inputs["kind"] == ("all" if inside == outside else "cross")


def test_a_difference_is_told_in_levels_and_what_is_no_number_is_no_picture():
    right = array("f", [-1.0, 0.0, 1.0])
    assert difference(array("f", [-1.0, 0.0, 1.0]), right) == 0
    assert difference(array("f", [-1.0, 0.5, 1.0]), right) == pytest.approx(0.5 / 2 * 255)
    for wrong in ([-1.0, NAN, 1.0], [INF, 0.0, 1.0], [-1.0, 0.0], []):
        assert difference(array("f", wrong), right) == INF


def test_what_fails_is_shrunk_to_what_it_takes():
    tried = []

    def fails(some):
        tried.append(some)
        return {3, 11} <= set(some) and some.index(3) < some.index(11)

    assert shrunk(list(range(20)), lambda some: fails(some) and some[-1] == 19) == [3, 11, 19]
    assert len(tried) <= 60
    assert shrunk([5], lambda some: True) == [5]


def test_a_log_says_where_to_go_on_even_when_its_last_line_is_cut(tmp_path):
    log = tmp_path / "soak.jsonl"
    assert done_before(log, "flux", 1) == 0
    lines = [{"family": "flux", "seed": 1, "number": n} for n in range(3)]
    lines.append({"family": "wan", "seed": 1, "number": 9})
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"family": "flux", "se')
    assert [done_before(log, "flux", seed) for seed in (1, 2)] == [3, 0]


def test_growth_is_told_from_the_second_window_to_the_last():
    def held(*windows_):
        lines = [{"rss_mb": rss, "threads": threads, "fds": fds} for rss, threads, fds in windows_ for _ in range(50)]
        lines[60]["rss_mb"] = 9999  # one look while a model is sampled
        return grown(windows(lines))

    assert held((500, 10, 20), (1000, 12, 30), (1010, 12, 30)) == []
    assert held((500, 10, 20), (1000, 12, 30), (1030, 13, 30)) == [
        "memory grew from 1000 to 1030 MB",
        "threads grew from 12 to 13",
    ]


def test_a_change_sets_one_thing():
    assert Change("size", (192, 128)).of(Workflow()) == Workflow(width=192)
    assert Change("order", ["patch", "compile", "lora", "override", "replacement"]).of(Workflow()).order[0] == "patch"
