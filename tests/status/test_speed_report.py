"""The arithmetic behind the speed report."""

from __future__ import annotations

import json
import math

import pytest
import torch
from onediff_pack.speed_report.difference import Difference, difference
from onediff_pack.speed_report.figures import CompileCost, Sampling, SpeedReport, Times, duration

COST = CompileCost(30.0, True, 38, 38, 17)


def report(uncompiled: list[float], compiled: list[float], steps: int = 10, **changes) -> SpeedReport:
    samplings = [Sampling(False, tuple(uncompiled))] + ([Sampling(True, tuple(compiled))] if compiled else [])
    changes = {"cost": COST if compiled else None, **changes}
    return SpeedReport(tuple(samplings), steps, **changes)


def test_medians_ignore_a_hiccup():
    times = Times.of([100, 101, 99, 100, 900])
    assert (times.median_ms, times.low_ms, times.high_ms, times.steps) == (100, 100, 101, 5)
    assert Times.of([7]) == Times(7, 7, 7, 1)
    with pytest.raises(ValueError, match="no step"):
        Times.of([])


def test_times_of_all_samplings_of_a_way_count():
    samplings = (Sampling(False, (4, 4)), Sampling(True, (2, 2)), Sampling(False, (8, 8)), Sampling(True, (3, 3)))
    both = SpeedReport(samplings, 2, cost=COST)
    assert both.steps_ms(compiled=False) == [4, 4, 8, 8]
    assert both.speedup == pytest.approx(6 / 2.5)


def test_steps_that_ran_the_same_blocks_are_compared():
    """A caching node lets every second step skip most blocks, and one step of a compiled sampling was left out."""
    full, cheap = (1, 1, 1), (1, 0, 0)
    uncompiled = Sampling(False, (400.0, 90.0) * 4, (full, cheap) * 4)
    compiled = Sampling(True, (90.0, *(400.0, 90.0) * 3), (cheap, *(full, cheap) * 3))
    both = SpeedReport((uncompiled, compiled), 8, cost=COST)
    assert both.speedup == pytest.approx(1)
    assert both.outcome == "same"
    assert both.uncompiled.median_ms == pytest.approx((3 * 400 + 4 * 90) / 7)
    faster = Sampling(True, (75.0, *(200.0, 75.0) * 3, 40.0), (cheap, *(full, cheap) * 3, (0, 0, 0)))
    both = SpeedReport((uncompiled, faster), 8, cost=COST)
    assert both.speedup == pytest.approx((3 * 400 + 4 * 90) / (3 * 200 + 4 * 75))
    other = SpeedReport((uncompiled, Sampling(True, (40.0,), ((0, 0, 0),))), 8, cost=COST)
    assert (other.compiled, other.speedup, other.outcome) == (None, None, "uncompiled")


def test_compiling_is_earned_back_after_its_seconds_divided_by_what_a_picture_saves():
    both = report([500] * 3, [300] * 3)
    assert both.picture_seconds == (5, 3)
    assert both.breakeven_images == 15
    assert both.outcome == "faster"
    assert both.verdict == "Compiled, the model is 1.67 times as fast: 300 ms a step against 500 ms uncompiled."


@pytest.mark.parametrize(
    ("uncompiled", "compiled", "noisy"),
    [
        ([100, 110, 120, 130], [80, 85, 90, 95], False),
        ([100, 110, 120, 130], [85, 95, 125, 105], True),
        ([80, 85, 90, 95], [100, 110, 120, 130], False),
        ([85, 95, 125, 105], [100, 110, 120, 130], True),
        ([100, 110, 120, 130], [100, 110, 120, 130], False),
        ([100], [90], False),
    ],
)
def test_it_is_noisy_where_the_middle_halves_of_both_ways_overlap(uncompiled, compiled, noisy):
    both = report(uncompiled, compiled)
    assert both.noisy is noisy
    assert both.verdict.startswith("Noisy") is noisy
    assert (both.breakeven_images is None) is (noisy or both.outcome != "faster")


def test_steps_that_ran_other_blocks_are_no_noise():
    full, cheap = (1, 1), (1, 0)
    ways = (Sampling(False, (100, 40) * 4, (full, cheap) * 4), Sampling(True, (80, 30) * 4, (full, cheap) * 4))
    assert not SpeedReport(ways, 8, cost=COST).noisy


@pytest.mark.parametrize(
    ("compiled", "outcome", "words"),
    [(120, "slower", "take 20 % longer"), (101, "same", "makes no difference"), (98, "same", "makes no difference")],
)
def test_what_is_not_faster_is_never_earned_back(compiled, outcome, words):
    both = report([100], [compiled])
    assert both.outcome == outcome
    assert both.breakeven_images is None
    assert words in both.verdict


def test_without_compiled_steps_the_reason_is_the_verdict():
    plain = report([100, 102], [], reason="no C++ compiler was found.")
    assert plain.verdict == "Nothing was compiled: no C++ compiler was found."
    figures = plain.as_dict()
    assert (figures["compiled"], figures["speedup"], figures["compile"], figures["error"]) == (None, None, None, None)
    assert figures["uncompiled"]["median_ms"] == 101


def test_the_difference_of_latents_is_that_of_all_their_tensors():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0])
    found = difference([a, b + 5], [a, b])
    assert found.max_abs == 5
    assert found.relative == 1
    assert difference([a], [a]).as_dict() == {"max_abs": 0, "relative": 0}


@pytest.mark.parametrize("ours", [torch.tensor([1.0, math.nan]), torch.tensor([1.0])])
def test_nan_and_another_shape_are_infinitely_far_and_null_in_json(ours):
    found = difference([ours], [torch.tensor([1.0, 2.0])])
    assert found.max_abs == math.inf
    both = report([100], [50], error=found)
    assert json.loads(json.dumps(both.as_dict(), allow_nan=False))["error"] == {"max_abs": None, "relative": None}


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.84, "0.84 ms"),
        (14.84, "14.8 ms"),
        (148.4, "148 ms"),
        (10.4, "10.4 ms"),
        (100.4, "100 ms"),
        (999.6, "1.00 s"),
        (9_994_000, "9994 s"),
        (14_840, "14.8 s"),
        (148_400, "148 s"),
    ],
)
def test_durations_have_three_figures(milliseconds, text):
    assert duration(milliseconds) == text


def test_what_patch_and_compiling_gain_together_is_measured_against_no_nodes_at_all():
    without = Sampling(False, (400.0, 404.0, 396.0), without=True)
    patched, compiled = Sampling(False, (200.0, 200.0)), Sampling(True, (160.0, 160.0))
    both = SpeedReport((without, patched, compiled), 4)
    assert (both.without.median_ms, both.uncompiled.median_ms, both.compiled.median_ms) == (400, 200, 160)
    assert (both.patch_speedup, both.speedup, both.total_speedup) == (2, 1.25, 2.5)
    assert both.verdict.startswith(
        "All nodes together make it 2.50 times as fast: without these nodes a step takes 400 ms"
    )
    assert both.verdict.endswith("Compiled, the model is 1.25 times as fast: 160 ms a step against 200 ms uncompiled.")

    slower = SpeedReport((without, patched, Sampling(True, (250.0,))), 4)
    assert slower.total_speedup == 2, "compiled steps are not kept"
    alone = SpeedReport((without, patched), 4, reason="no backend.")
    assert (alone.total_speedup, alone.compiled) == (2, None)
    same = SpeedReport((Sampling(False, (201.0,), without=True), patched), 4)
    assert same.verdict.startswith("All nodes together gain nothing")
    assert SpeedReport((patched, compiled), 4).total_speedup is None
    data = both.as_dict()
    assert (data["without"]["median_ms"], data["patch_speedup"], data["total_speedup"]) == (400, 2, 2.5)


def test_steps_without_that_ran_other_blocks_do_not_count():
    full, cheap = (1, 1), (1, 0)
    without = Sampling(False, (400.0, 100.0), (full, cheap), without=True)
    assert SpeedReport((without, Sampling(False, (200.0,), (full,))), 2).patch_speedup == 2


def test_the_report_as_json_has_all_figures_rounded():
    """Its fields are what scripts read."""
    both = report(
        [500.00049] * 3,
        [300.12341] * 3,
        error=Difference(0.5, 0.25),
        repeat=Difference(0.0, 0.0),
        cost=CompileCost(30.1256, True, 38, 36, 17, "cold"),
        setup={"sampler": "euler"},
        model={"class": "UNetModel"},
        machine={"device": "here"},
        backend={"used": "inductor"},
        notes=("a note",),
        measured_at="2026-01-02",
    )
    assert both.as_dict() == {
        "verdict": "Compiled, the model is 1.67 times as fast: 300 ms a step against 500 ms uncompiled.",
        "outcome": "faster",
        "speedup": 1.666,
        "noisy": False,
        "without": None,
        "patch_speedup": None,
        "total_speedup": None,
        "patch_noisy": False,
        "uncompiled": {"median_ms": 500.0, "low_ms": 500.0, "high_ms": 500.0, "steps": 3},
        "compiled": {"median_ms": 300.123, "low_ms": 300.123, "high_ms": 300.123, "steps": 3},
        "steps": 10,
        "picture_seconds": {"uncompiled": 5.0, "compiled": 3.001},
        "compile": {
            "seconds": 30.13,
            "fresh": True,
            "blocks": 38,
            "blocks_compiled": 36,
            "graphs": 17,
            "cache": "cold",
        },
        "breakeven_images": 15.1,
        "error": {"max_abs": 0.5, "relative": 0.25},
        "repeat_error": {"max_abs": 0.0, "relative": 0.0},
        "samplings": [
            {"compiled": False, "without": False, "steps_ms": [500.0] * 3},
            {"compiled": True, "without": False, "steps_ms": [300.123] * 3},
        ],
        "reason": None,
        "setup": {"sampler": "euler"},
        "model": {"class": "UNetModel"},
        "backend": {"used": "inductor"},
        "machine": {"device": "here"},
        "measured_at": "2026-01-02",
        "notes": ["a note"],
    }
    assert Times(1.23456, 0.98765, 9.87654, 7).as_dict() == {
        "median_ms": 1.235,
        "low_ms": 0.988,
        "high_ms": 9.877,
        "steps": 7,
    }


def test_infinities_at_the_same_places_do_not_count_and_nothing_is_no_difference():
    a, b = torch.tensor([1.0, math.nan, math.inf, 4.0]), torch.tensor([3.0, math.nan, math.inf, 4.0])
    found = difference([a], [b])
    assert (found.max_abs, found.relative) == (2.0, pytest.approx(2 / 5))
    assert difference([torch.empty(0)], [torch.empty(0)]) == Difference(0.0, 0.0)
    zeros = torch.zeros(3)
    assert difference([zeros], [zeros]) == Difference(0.0, 0.0)
    assert difference([zeros + 1], [zeros]) == Difference(1.0, math.inf)
    assert difference([torch.tensor([1.0]), torch.tensor([-2.0])], [zeros[:1], zeros[:1]]).max_abs == 2.0
