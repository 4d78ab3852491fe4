"""The record, its summary, its events, and the timing behind it."""

from __future__ import annotations

import json

import pytest
from onediff_pack.status import Hub
from onediff_pack.status.record import FIELDS
from onediff_pack.status.timing import StepTimes


def test_a_record_keeps_its_fields_and_tells_pages():
    sent = []
    hub = Hub(lambda event, data: sent.append((event, json.loads(json.dumps(data)))))
    record = hub.record("workflow-a", "12")
    record.update(state="checking")
    assert tuple(record.data) == FIELDS
    assert sent == [("onediff.status", record.data)]
    with pytest.raises(KeyError):
        record.update(sped={})
    with pytest.raises(ValueError, match="unknown state 'done'"):
        record.update(state="done")


def test_equal_node_ids_of_two_workflows_stay_apart():
    hub = Hub()
    hub.record("a", "12").update(state="checking")
    hub.record("b", "12").update(state="failed")
    assert sorted(data["state"] for data in hub.snapshot().values()) == ["checking", "failed"]
    hub.record("a", "12")
    assert len(hub.snapshot()) == 2


def test_live_updates_are_at_most_two_a_second_and_others_always_go_out(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("onediff_pack.status.record.time.monotonic", lambda: now[0])
    sent = []
    record = Hub(lambda event, data: sent.append(data["progress"]["done"])).record("a", "1")
    for done in range(20):
        record.update(live=True, state="compiling", progress={"done": done, "total": 20})
        now[0] += 0.125
    assert sent == [0, 4, 8, 12, 16]
    record.update(state="compiling", progress={"done": 20, "total": 20})
    assert sent[-1] == 20


@pytest.mark.parametrize(
    ("fields", "summary"),
    [
        ({"state": "idle"}, "not run yet"),
        ({"state": "idle", "compile": {"regions": 38}}, "ready: 38 blocks to compile when sampling"),
        (
            {"state": "patched", "patches": {"sites": [{"site": "a", "processor": "sdpa"}], "foreign": []}},
            "patched 1 site · sdpa",
        ),
        (
            {"state": "checked", "check": {"modules": 686, "errors": 0, "warnings": 0}},
            "checked 686 modules, no problems",
        ),
        ({"state": "checked", "check": {"modules": 9, "errors": 2, "warnings": 1}}, "checked: 2 errors, 1 warning"),
        ({"state": "compiling", "progress": {"done": 7, "total": 38}}, "compiling 7/38"),
        (
            {
                "state": "compiled",
                "backend": {"used": "inductor"},
                "compile": {"regions_compiled": 38, "regions_uncompiled": []},
                "speed": {"speedup": 1.62},
            },
            "compiled · inductor · 1.62× · 38 blocks",
        ),
        (
            {"state": "uncompiled", "speed": {"kept": "uncompiled", "speedup": 0.9}},
            "uncompiled: compiled steps took 11 % longer",
        ),
        ({"state": "uncompiled", "backend": {"used": None, "reason": "no compiler."}}, "uncompiled: no compiler."),
    ],
)
def test_summaries(fields, summary):
    record = Hub().record("a", "1")
    record.update(**fields)
    assert record["summary"] == summary


def drive(times: StepTimes, eager: list[float], compiled: list[float], steps: int, shape: str = "shape") -> str:
    """Lets the schedule choose ``steps`` steps; returns which were uncompiled (u) and compiled (c)."""
    eager, compiled, chosen = iter(eager), iter(compiled), ""
    for _ in range(steps):
        uncompiled = times.uncompiled_next(shape)
        times.add(shape, next(eager, 1) if uncompiled else next(compiled, 1), compiled=not uncompiled)
        chosen += "u" if uncompiled else "c"
    return chosen


def test_uncompiled_and_compiled_steps_alternate_then_compiled_ones_go_on():
    times = StepTimes()
    assert drive(times, [90, 50, 54], [40, 42, 41] + [1] * 9, steps=10) == "ucucuccccc"
    assert times.medians("shape") == (52, 41)  # the warm-up of 90 and the late steps are left out
    assert not times.slower_compiled("shape")


@pytest.mark.parametrize(("compiled", "slower"), [([60, 61, 62], True), ([50, 51, 52], False), ([51, 53, 53], False)])
def test_slower_means_by_more_than_noise(compiled, slower):
    times = StepTimes()
    drive(times, [99, 52, 52], [*compiled, 60], steps=6)
    assert times.slower_compiled("shape") is slower


def test_much_slower_is_known_after_two_steps_of_each():
    times = StepTimes()
    assert drive(times, [99, 52], [70, 71], steps=4) == "ucuc"
    assert times.slower_compiled("shape")
    assert times.open("shape")


def test_a_little_slower_is_not_known_after_two_steps_of_each():
    times = StepTimes()
    drive(times, [99, 52], [60, 60], steps=4)
    assert not times.slower_compiled("shape")


def test_another_size_is_timed_on_its_own_without_starting_uncompiled():
    times = StepTimes()
    drive(times, [99, 52, 52], [40, 40, 40], steps=6)
    assert drive(times, [70, 60, 60], [90, 91, 92], steps=8, shape="larger") == "cuucuccc"
    assert times.slower_compiled("larger")
    assert not times.slower_compiled("shape")
