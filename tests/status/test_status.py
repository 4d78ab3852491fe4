"""The record, its summary, its events, and the timing behind it."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest
from onediff_pack.status import Hub
from onediff_pack.status.hub import Run
from onediff_pack.status.prompts import EndedPrompt
from onediff_pack.status.record import FIELDS

SAME = {"used": "inductor", "reason": "no clear gain."}
AUTO = {"sites": [{"site": "a", "processor": "sdpa"}], "foreign": []}
STOPPED = {"stopped": {"done": 7, "total": 38}}
BESIDE = {"stopped": {"done": 7, "total": 38, "beside": True}}


def test_a_record_keeps_its_fields_and_tells_pages():
    sent = []
    hub = Hub(lambda event, data: sent.append((event, json.loads(json.dumps(data)))))
    record = hub.record("workflow-a", "12")
    record.update(state="checking")
    assert tuple(record.data) == FIELDS
    assert (record["workflow"], record["node"]) == ("workflow-a", "12")
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


def test_what_a_node_said_of_a_run_stays_when_a_third_workflow_runs_it():
    """ComfyUI takes its objects from the cache, and the record that one gave as output goes on changing."""
    ended, runs = [], []
    hub = Hub(runs=lambda: runs, ended=lambda: [ended.pop()] if ended else [])
    record = hub.record("a", "12")
    record.update(state="patched")
    began = time.time() + 1
    ended.append(EndedPrompt("b", began, {}, (), frozenset(), {"12": record.data}))
    runs.append(Run("b", began, {"12": record.data}))
    assert hub.snapshot()["b:12"]["state"] == "patched"
    hub.running = lambda: "c"
    record.update(state="uncompiled")
    assert hub.snapshot()["b:12"]["state"] == "patched"
    assert hub.snapshot()["c:12"]["state"] == "uncompiled"


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
        ({"state": "uncompiled"}, "uncompiled"),
        (
            {"state": "uncompiled", "speed": {"kept": "uncompiled", "clear": False, "speedup": 0.98}, "backend": SAME},
            "uncompiled: no clear gain.",
        ),
        (
            {"state": "uncompiled", "speed": {"kept": "uncompiled", "clear": True, "speedup": 1.0}, "backend": SAME},
            "uncompiled: no clear gain.",
        ),
        (
            {"state": "uncompiled", "speed": {"kept": None, "speedup": 0.9}, "backend": SAME},
            "uncompiled: no clear gain.",
        ),
        ({"state": "uncompiled", "speed": {"kept": "uncompiled"}, "backend": SAME}, "uncompiled: no clear gain."),
        (
            {
                "state": "uncompiled",
                "speed": {"kept": "uncompiled", "clear": None, "speedup": 0.8, "verdict": "slower"},
            },
            "uncompiled: compiled steps took 25 % longer",
        ),
        ({"state": "idle", "backend": {"replaced_by": "14"}}, "left to the later node 14"),
        ({"state": "idle", "compile": {"regions": 1}}, "ready: 1 block to compile when sampling"),
        (
            {"state": "idle", "compile": {"stopped": {"done": 0, "total": 0}}},
            "stopped · goes on with the next new picture",
        ),
        ({"state": "partial", "compile": STOPPED}, "stopped at 7/38 · goes on with the next new picture"),
        ({"state": "idle", "compile": BESIDE}, "compiling in the background · used from the next picture"),
        ({"state": "partial", "compile": BESIDE}, "compiling in the background · used from the next picture"),
        ({"state": "measuring", "compile": BESIDE}, "compiling in the background"),
        ({"state": "compiled", "compile": {**STOPPED, "regions_compiled": 38}}, "compiled · no backend · 38 blocks"),
        ({"state": "patched"}, "nothing patched"),
        (
            {"state": "patched", "patches": {"sites": [{"processor": "sdpa"}, {"processor": "mine"}], "foreign": []}},
            "patched 2 sites · mine, sdpa",
        ),
        (
            {"state": "patched", "patches": {**AUTO, "auto": {"state": "chosen"}, "gain": {"attention_speedup": 1.9}}},
            "patched 1 site · auto: sdpa · attention 1.90×",
        ),
        (
            {"state": "patched", "patches": {**AUTO, "auto": {"state": "chosen", "attention_speedup": 1.02}}},
            "patched 1 site · auto: sdpa",
        ),
        (
            {"state": "patched", "patches": {"sites": [], "auto": {"state": "no gain"}}},
            "auto: no gain, nothing was replaced",
        ),
        (
            {
                "state": "patched",
                "patches": {
                    "sites": [{"processor": "sdpa"}],
                    "foreign": [],
                    "rejected": {"class": "SoftCap", "where": "softcap.py:16", "what": "has no forward"},
                },
            },
            "SoftCap not used, sdpa is · softcap.py:16: has no forward",
        ),
        ({"state": "checked", "check": {"modules": 1, "errors": 0, "warnings": 1}}, "checked: 0 errors, 1 warning"),
        ({"state": "checked", "check": {"modules": 1, "errors": 1, "warnings": 0}}, "checked: 1 error, 0 warnings"),
        ({"state": "checked", "check": {"modules": 1, "errors": 0, "warnings": 0}}, "checked 1 module, no problems"),
        ({"state": "checking"}, "checking"),
        (
            {"state": "compiled", "backend": {"used": "inductor"}, "compile": {"regions_compiled": 1}},
            "compiled · inductor · 1 block",
        ),
        ({"state": "compiled"}, "compiled · no backend · 0 blocks"),
        (
            {"state": "compiled", "speed": {"speedup": 1.1, "verdict": None, "pairs": 3}},
            "compiled · no backend · not clear yet (3 comparisons) · 0 blocks",
        ),
        (
            {
                "state": "partial",
                "compile": {
                    "regions_compiled": 3,
                    "regions_uncompiled": [{"path": "a"}, {"path": "b"}],
                    "regions_without_gain": 1,
                },
            },
            "partial · no backend · 3 blocks, 2 uncompiled",
        ),
        ({"state": "failed"}, "failed"),
        ({"state": "failed", "check": {"findings": [{"what": "no forward"}, {"what": "other"}]}}, "failed: no forward"),
        (
            {"state": "failed", "check": {"findings": [{"what": "no forward"}]}, "backend": {"reason": "it differs."}},
            "failed: it differs.",
        ),
        ({"state": "patched", "unused": {"why": "not sampled", "by": None}}, "not used: nothing sampled this model"),
        ({"state": "patched", "unused": {"why": "not called", "by": "A"}}, "no effect: “A” runs in the model's place"),
        (
            {"state": "uncompiled", "unused": {"why": "not called", "by": None}},
            "no effect: the model was not called as ComfyUI calls it",
        ),
        ({"state": "patched", "unused": {"why": "instead", "by": "A"}}, "no effect: “A” computes attention instead"),
        (
            {"state": "uncompiled", "unused": {"why": "instead", "by": "A"}},
            "no effect: “A” computes the blocks instead",
        ),
        ({"state": "patched", "unused": {"why": "instead", "by": None}}, "no effect: the model did not call attention"),
        (
            {"state": "uncompiled", "unused": {"why": "instead", "by": None}},
            "no effect: the model did not call the blocks",
        ),
        ({"state": "compiling", "unused": {"why": "not sampled", "by": None}}, "compiling"),
        (
            {"state": "patched", "patches": {"sites": [{"site": "a", "processor": "two\nlines"}], "foreign": []}},
            "patched 1 site · two lines",
        ),
        (
            {
                "state": "compiled",
                "speed": {"noisy": True, "patch_speedup": 1.63, "total_speedup": 1.63},
                "compile": {"regions_compiled": 2},
            },
            "compiled · no backend · 1.63× from patched attention · noisy, no clear difference · 2 blocks",
        ),
        (
            {
                "state": "uncompiled",
                "speed": {
                    "kept": "uncompiled",
                    "verdict": "slower",
                    "speedup": 0.8,
                    "patch_speedup": 1.63,
                    "total_speedup": 1.63,
                },
            },
            "1.63× from patched attention · uncompiled: compiled steps took 25 % longer",
        ),
        (
            {
                "state": "uncompiled",
                "backend": {"reason": "no gain."},
                "speed": {"kept": "uncompiled", "patch_speedup": 1.63, "total_speedup": 1.63, "computed": True},
            },
            "about 1.63× from patched attention · uncompiled: no gain.",
        ),
        (
            {"state": "patched", "unused": {"why": "adds nothing", "because": "mask", "by": None}},
            "no effect: the mask is black",
        ),
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


def test_a_new_record_is_idle_and_was_neither_measured_nor_sampled():
    record = Hub().record(None, "3")
    assert (record["state"], record["measured_at"], record.key) == ("idle", None, "-:3")
    assert record.sampled_at < 0
    record.sampled("KSampler")
    assert record.sampled_at == pytest.approx(time.time(), abs=5)
    assert record.samplers == {"KSampler"}


def test_a_measurement_is_stamped_with_the_time_here():
    record = Hub().record("a", "1")
    record.stamp()
    when = datetime.fromisoformat(record["measured_at"])
    assert abs(when.timestamp() - time.time()) < 5
    assert when.utcoffset() == datetime.now().astimezone().utcoffset()
    assert when.microsecond == 0


def test_a_mistaken_field_or_state_is_named_and_changes_nothing():
    record = Hub().record("a", "1")
    with pytest.raises(KeyError, match=r"has no field.*sped"):
        record.update(state="failed", sped={})
    with pytest.raises(ValueError, match=r"'done'; one of idle, patched, "):
        record.update(state="done")
    assert record["state"] == "idle"
