"""The record, its summary, its events, and the timing behind it."""

from __future__ import annotations

import json
import time

import pytest
from onediff_pack.status import Hub
from onediff_pack.status.hub import Run
from onediff_pack.status.record import FIELDS


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


def test_a_record_moves_to_the_workflow_that_runs_it():
    """ComfyUI took the node of "a" from its cache for a prompt of "b"."""
    running = ["a"]
    sent = []
    hub = Hub(lambda event, data: sent.append((data["workflow"], data["state"])), lambda: running[0])
    record = hub.record("a", "12")
    record.update(state="compiled")
    running[0] = "b"
    record.update(state="measuring")
    assert sent == [("a", "compiled"), ("b", "measuring")]
    assert {key: data["state"] for key, data in hub.snapshot().items()} == {"a:12": "compiled", "b:12": "measuring"}
    running[0] = None  # between prompts, or a script's
    record.update(state="uncompiled")
    assert sent[-1] == ("b", "uncompiled")


def test_a_cached_node_shows_what_its_run_gave_as_output():
    runs = []
    hub = Hub(runs=lambda: runs)
    record = hub.record("a", "12")
    record.update(state="compiling")
    now = time.time()
    runs[:] = [Run("b", now + 1, {"12": record.data})]
    assert {data["workflow"]: data["state"] for data in hub.snapshot().values()} == {"a": "compiling", "b": "compiling"}
    assert record["workflow"] == "a"

    other = {**record.data, "state": "failed"}
    runs.insert(0, Run("a", now - 60, {"12": other}))
    assert hub.snapshot()["a:12"]["state"] == "compiling", "the record changed after that run began"
    runs.insert(0, Run("a", now + 60, {"12": other}))
    assert hub.snapshot()["a:12"]["state"] == "failed", "a newer run took the node from the cache"


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


def test_fifty_live_records_send_at_most_a_hundred_events_a_second(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("onediff_pack.status.record.time.monotonic", lambda: now[0])
    sent = []
    hub = Hub(lambda event, data: sent.append(data["node"]))
    records = [hub.record("a", str(node)) for node in range(50)]
    for done in range(800):  # ten seconds of a step every 12.5 ms
        for record in records:
            record.update(live=True, state="compiling", progress={"done": done, "total": 800})
        now[0] += 0.0125
    assert len(sent) == 50 * 20


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
            {
                "state": "partial",
                "backend": {"used": "inductor"},
                "compile": {
                    "regions_compiled": 36,
                    "regions_uncompiled": [{"path": "a"}, {"path": "b"}],
                    "regions_without_gain": 2,
                },
                "speed": {"speedup": 1.4},
            },
            "partial · inductor · 1.40× · 36 blocks, 2 would gain nothing",
        ),
        (
            {"state": "uncompiled", "speed": {"kept": "uncompiled", "speedup": 0.9, "verdict": "slower"}},
            "uncompiled: compiled steps took 11 % longer",
        ),
        ({"state": "uncompiled", "backend": {"used": None, "reason": "no compiler."}}, "uncompiled: no compiler."),
    ],
)
def test_summaries(fields, summary):
    record = Hub().record("a", "1")
    record.update(**fields)
    assert record["summary"] == summary


def test_a_record_is_json_that_browsers_read_and_never_long():
    sent = []
    hub = Hub(lambda event, data: sent.append(json.dumps(data, ensure_ascii=False, allow_nan=False).encode()))
    record = hub.record("w", "1")
    finding = {"severity": "error", "path": "p" * 10**6, "what": "\ud800", "why": "", "fix": ""}
    record.update(
        state="failed",
        backend={"reason": "no " * 10**6, "requested": "x" * 10**6},
        check={"errors": 5_000, "warnings": 0, "findings": [finding] * 5_000},
        parity={"max_abs": float("nan"), "relative": float("inf"), "nested": [[float("-inf")]]},
        patches={"sites": [], "foreign": [{"what": "w" * 10**6, 5: ("a", 1.5)}]},
    )
    assert len(sent[0]) < 500_000
    data = json.loads(sent[0])
    assert data["parity"] == {"max_abs": None, "relative": None, "nested": [[None]]}
    assert data["patches"]["foreign"][0]["5"] == ["a", 1.5]
    assert data["check"]["errors"] == 5_000
    assert data["check"]["findings"][-1]["what"] == "4,900 more findings are not shown"
    assert len(data["summary"]) <= 500
