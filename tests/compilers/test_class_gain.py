"""What compiling gains for a class of blocks, told from the times of its first kinds; and how those are taken."""

from __future__ import annotations

import pytest
import torch
from onediff_pack.compilers.measuring import class_gain as gains
from onediff_pack.compilers.measuring.class_gain import (
    FEWEST_PAIRS,
    IN_A_ROW,
    MOST_PAIRS,
    ClassGain,
    time_pairs,
)

KINDS = 12


def test_on_a_gpu_blocks_are_timed_as_they_run_in_a_step(monkeypatch):
    """One after the other, without waiting for each: this clock says what a wait costs."""
    waits = []

    class Waiting:
        def __init__(self, device):
            pass

        def time(self, call):
            waits.append(call)
            return call(), 80.0

    monkeypatch.setattr(gains, "Stopwatch", Waiting)
    runs = []
    inputs = ((torch.zeros(2),), {})
    pairs = time_pairs(runs.append, runs.append, inputs, torch.device("cuda"), most=3)
    assert pairs == [(80.0 / IN_A_ROW, 80.0 / IN_A_ROW)] * 3
    assert (len(waits), len(runs)) == (6, 6 * IN_A_ROW)


def test_each_kind_is_asked_for_once_and_the_slow_one_counts_most():
    gain = ClassGain("Block", KINDS)
    gain.note(0, [(1.0, 10.0), (1.0, 1.0), (1.0, 1.0)])  # one spike
    assert not gain.asks(0)
    assert gain.asks(1)
    gain.note(1, [(110.0, 100.0)] * 3)
    assert gain.reason is None
    assert not gain.asks(2)

    gain = ClassGain("Block", KINDS)
    gain.note(0, [(1.1, 1.0)] * 3)
    gain.note(1, [(100.0, 100.0)] * 3)
    assert "ran 1.00×" in gain.reason


def test_a_slow_block_is_timed_for_a_few_seconds_only(monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(gains.time, "monotonic", lambda: float(next(clock)))
    ran = []
    pairs = time_pairs(
        lambda own: ran.append("compiled"), lambda own: ran.append("uncompiled"), ((), {}), torch.device("cpu")
    )
    assert len(pairs) == FEWEST_PAIRS
    assert [sorted(ran[i : i + 2]) for i in range(0, len(ran), 2)] == [["compiled", "uncompiled"]] * len(pairs)


def test_each_run_has_its_own_inputs():
    x, seen = torch.zeros(2), []

    def writes(inputs):
        ((own,), _) = inputs
        seen.append(own.clone())
        own += 1

    time_pairs(writes, writes, ((x,), {}), torch.device("cpu"))
    assert len(seen) == 2 * MOST_PAIRS
    assert all(torch.equal(found, torch.zeros(2)) for found in (*seen, x))


def test_a_class_is_left_when_its_kinds_gain_less_than_compiling_is_worth():
    def reason(*gains: float) -> str | None:
        gain = ClassGain("ResBlock", KINDS)
        for kind, factor in enumerate(gains):
            gain.note(kind, [(factor, 1.0)])
        return gain.reason

    assert reason(0.5) is None, "one kind decides nothing"
    assert reason(0.99, 0.99) == (
        "ResBlock gains too little: 2 of its 12 widths were compiled and ran 0.99× as fast as uncompiled."
    )
    assert reason(1.029, 1.029)
    assert reason(1.031, 1.031) is None


def test_nobody_asks_where_nobody_wants_to_know_or_it_cannot_be_told():
    assert not ClassGain().asks("kind")
    gain = ClassGain("ResBlock", 1)
    assert gain.asks("kind")
    gain.give_up_timing()
    assert not gain.asks("kind")
    assert gain.reason is None


@pytest.mark.parametrize(
    ("most", "seconds", "expected"), [(2, 100.0, 2), (5, 100.0, 5), (8, 3.0, FEWEST_PAIRS), (8, 4.0, 4), (8, 9.0, 5)]
)
def test_pairs_are_taken_until_there_are_most_or_the_seconds_are_over(monkeypatch, most, seconds, expected):
    clock = iter(range(0, 1000, 3))  # a pair takes three seconds, once the fewest are there
    monkeypatch.setattr(gains.time, "monotonic", lambda: float(next(clock)))
    inputs = ((torch.zeros(1),), {})
    pairs = time_pairs(lambda own: None, lambda own: None, inputs, torch.device("cpu"), most, seconds)
    assert len(pairs) == expected


def test_a_pair_names_the_uncompiled_time_first_whichever_ran_first(monkeypatch):
    class Clock:
        def __init__(self, device):
            assert device.type == "cpu"

        def time(self, call):
            ran.append(None)
            call()
            return None, 2.0 if ran[-1] == "uncompiled" else 1.0

    ran: list[str | None] = []
    monkeypatch.setattr(gains, "Stopwatch", Clock)
    pairs = time_pairs(
        lambda own: ran.append("compiled"), lambda own: ran.append("uncompiled"), ((), {}), torch.device("cpu")
    )
    assert pairs == [(2.0, 1.0)] * MOST_PAIRS
    first = [way for way in ran if way][::2]
    assert set(first) == {"compiled", "uncompiled"}, "a drift favours neither"
