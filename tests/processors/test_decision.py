"""What is decided from measured times: pure arithmetic, no attention is computed."""

from __future__ import annotations

import pytest
from onediff_pack.processors.choosing.decision import Choice, decide, table
from onediff_pack.processors.choosing.host_call import Shape
from onediff_pack.processors.choosing.trial import Measured, Result


def shape(queries: int, keys: int = 0) -> Shape:
    return Shape("float32", 8, 8, 40, 2, queries, keys or queries, None)


def measured(ms: float, *results: Result, sites: tuple[str, ...] = ("a",), tried: bool = True) -> Measured:
    return Measured(sites[0], {site: [ms] for site in sites}, list(results) if tried else None, 0.0)


def win(name: str, ratio: float) -> Result:
    return Result(name, "faster", ratio, 1e-7)


def lose(name: str, ratio: float) -> Result:
    return Result(name, "no faster", ratio, 1e-7, "no faster")


WRONG = Result("flash", "wrong", error=0.01, reason="it is wrong (1.0e-02 from float32)")


def test_the_fastest_that_is_right_is_taken_and_what_it_saves_is_told() -> None:
    found = decide({shape(4096): measured(100.0, win("sdpa", 2.0), win("flash", 4.0), sites=("a", "b"))}, {})
    assert found.by_site == {"a": "flash", "b": "flash"}
    assert found.attention_ms == (200.0, 50.0)
    assert (found.speedup, found.kernels, found.error) == (4.0, ["flash"], 1e-7)


def test_what_a_whole_call_took_goes_before_the_ratio_of_a_part() -> None:
    def timed(whole_ms: float) -> Measured:
        return measured(100.0, Result("sdpa", "faster", 1.4, 1e-7, whole_ms=whole_ms), sites=("a", "b"))

    found = decide({shape(4096): timed(25.0)}, {})
    assert (found.by_site, found.attention_ms) == ({"a": "sdpa", "b": "sdpa"}, (200.0, 50.0))
    (row,) = table(found, [])
    assert row["candidates"][1]["ms"] == 25.0
    slower = decide({shape(4096): timed(110.0)}, {})
    assert (slower.by_site, slower.attention_ms) == ({"a": None, "b": None}, (200.0, 200.0))
    (row,) = table(slower, [])
    assert [one["verdict"] for one in row["candidates"]] == ["taken", "no faster"]


def test_nothing_is_taken_where_nothing_is_faster() -> None:
    results = (lose("sdpa", 0.9), Result("sage", "failed", reason="it raises RuntimeError: no"))
    found = decide({shape(4096): measured(100.0, *results)}, {})
    assert (found.by_site, found.attention_ms) == ({"a": None}, (100.0, 100.0))


@pytest.mark.parametrize(
    ("ms", "ratio", "taken"),
    [
        (1.0, 0.98, True),  # no difference
        (1.0, 0.7, True),  # slower, but nobody would notice
        (20.0, 0.7, False),  # it would eat up what it saves elsewhere
    ],
)
def test_what_wins_elsewhere_is_taken_where_it_makes_no_difference(ms: float, ratio: float, taken: bool) -> None:
    """So that a block needs one kind of compiled code."""
    calls = {
        shape(4096): measured(100.0, win("sdpa", 2.0), sites=("self",)),
        shape(4096, 64): measured(ms, lose("sdpa", ratio), sites=("cross",)),
    }
    found = decide(calls, {})
    assert found.by_site == {"self": "sdpa", "cross": "sdpa" if taken else None}
    assert found.attention_ms[1] < found.attention_ms[0]


def test_what_won_on_a_part_and_not_on_the_whole_is_not_taken_for_winning_elsewhere() -> None:
    part = Result("sdpa", "faster", 1.4, 1e-7, whole_ms=250.0)
    calls = {
        shape(4096): measured(100.0, part, sites=("a",)),
        shape(256): measured(10.0, win("sdpa", 2.0), sites=("b",)),
    }
    assert decide(calls, {}).by_site == {"a": None, "b": "sdpa"}


def test_what_was_not_tried_for_want_of_time_goes_with_what_won_everywhere_else() -> None:
    calls = {
        shape(4096): measured(100.0, win("sdpa", 2.0), sites=("a",)),
        shape(64): measured(1.0, sites=("b",), tried=False),
    }
    assert decide(calls, {}).by_site == {"a": "sdpa", "b": "sdpa"}
    calls[shape(256)] = measured(50.0, lose("sdpa", 0.5), sites=("c",))
    assert decide(calls, {}).by_site == {"a": "sdpa", "b": None, "c": None}


def test_what_was_not_tried_goes_with_what_makes_no_difference_elsewhere_too() -> None:
    """A slow machine has time for two shapes; the third, where the kernel is not tried, is not the smallest."""
    calls = {
        shape(4096): measured(1744.0, win("sdpa", 3.1), sites=("a",)),
        shape(4096, 64): measured(19.7, lose("sdpa", 0.97), sites=("b",)),
        shape(1024): measured(149.0, sites=("c",), tried=False),
    }
    assert decide(calls, {}).by_site == {"a": "sdpa", "b": "sdpa", "c": "sdpa"}


@pytest.mark.parametrize(
    "other, taken", [(lose("flash", 0.5), "sdpa"), (win("flash", 2.0), "flash"), (WRONG, "sdpa")], ids=str
)
def test_one_whose_turn_did_not_come_goes_with_what_won_elsewhere(other: Result, taken: str) -> None:
    late = Result("sdpa", "not tried", reason="not tried: no time was left for it", passing=True)
    calls = {
        shape(4096): measured(100.0, win("sdpa", 2.0), sites=("a",)),
        shape(1024): measured(10.0, other, late, sites=("b",)),
    }
    found = decide(calls, {})
    assert found.by_site == {"a": "sdpa", "b": taken}
    (reason,) = [one["reason"] for one in table(found, [])[1]["candidates"] if one["processor"] == "sdpa"]
    assert reason == ("not tried at this size: it is taken at the others" if taken == "sdpa" else late.reason)


@pytest.mark.parametrize(
    "reason, passing", [("head size 40 is not among 64, 128", False), ("it raises OutOfMemoryError", True)]
)
def test_one_that_cannot_be_used_there_is_not_taken_for_winning_elsewhere(reason: str, passing: bool) -> None:
    unfit = Result("sdpa", "failed" if passing else "not tried", reason=reason, passing=passing)
    calls = {
        shape(4096): measured(100.0, win("sdpa", 2.0), sites=("a",)),
        shape(1024): measured(10.0, unfit, sites=("b",)),
    }
    assert decide(calls, {}).by_site == {"a": "sdpa", "b": None}


def test_a_kernel_that_is_wrong_somewhere_is_not_taken_there() -> None:
    calls = {
        shape(4096): measured(100.0, win("flash", 4.0), sites=("a",)),
        shape(64): measured(1.0, WRONG, sites=("b",)),
    }
    assert decide(calls, {}).by_site == {"a": "flash", "b": None}


def test_a_site_goes_by_the_calls_that_take_it_longest() -> None:
    calls = {
        shape(4096): measured(100.0, win("flash", 4.0), win("sdpa", 1.1)),
        shape(1024): measured(8.0, lose("flash", 0.5), win("sdpa", 2.0)),
    }
    assert decide(calls, {}).by_site == {"a": "flash"}


def test_what_is_known_from_disk_stands_as_it_is() -> None:
    known = {shape(4096): Choice("sdpa", 90.0, 30.0, 1e-7, (win("sdpa", 3.0),))}
    found = decide({shape(4096): Measured("a", {"a": [], "b": []})}, known)
    assert (found.by_site, found.source) == ({"a": "sdpa", "b": "sdpa"}, "disk")
    assert found.attention_ms == (180.0, 60.0)


def test_the_table_says_of_every_candidate_what_came_of_it() -> None:
    results = (
        win("sdpa", 2.0),
        win("flash", 4.0),
        lose("sliced", 0.5),
        Result("rough", "wrong", error=0.01, reason="it is wrong (1.0e-02 from float32)"),
        Result("bad", "failed", reason="it raises E: no"),
    )
    (row,) = table(decide({shape(4096): measured(100.0, *results, sites=("a", "b"))}, {}), [("sage", "not installed")])
    assert (row["site"], row["sites"], row["processor"]) == ("a", 2, "flash")
    assert [tuple(one[name] for name in ("processor", "ms", "error", "verdict")) for one in row["candidates"]] == [
        ("host", 100.0, None, "no faster"),
        ("sdpa", 50.0, 1e-7, "no faster"),
        ("flash", 25.0, 1e-7, "taken"),
        ("sliced", 200.0, 1e-7, "no faster"),
        ("rough", None, 0.01, "wrong"),
        ("bad", None, None, "failed"),
        ("sage", None, None, "not tried"),
    ]
    assert [one["reason"] for one in row["candidates"]] == [
        "slower",
        "another one is faster",
        None,
        "no faster",
        "it is wrong (1.0e-02 from float32)",
        "it raises E: no",
        "not installed",
    ]


def test_what_is_taken_without_a_trial_is_in_the_table_too() -> None:
    calls = {
        shape(4096): measured(100.0, win("sdpa", 2.0), sites=("a",)),
        shape(64): measured(1.0, sites=("b",), tried=False),
    }
    _, row = table(decide(calls, {}), [])
    verdicts = {one["processor"]: one["verdict"] for one in row["candidates"]}
    assert verdicts == {"host": "no faster", "sdpa": "taken"}
    assert [one["reason"] for one in row["candidates"]] == [
        "no difference at this size",
        "not tried at this size: it is taken at the others",
    ]
