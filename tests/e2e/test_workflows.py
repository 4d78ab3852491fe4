"""The example workflows on the real server: the picture, the record, and equality with the same workflow uncompiled."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from examples import OURS, ROOT, SDPA, bypass, example, run, start
from old_workflows import node, picture, plain

from scripts.server import Server

#: Blocks and distinct graphs (class and weight shapes) of the stand-ins.
EXPECTED = {"sd15": (15, 9), "flux": (6, 2)}
SITES = {"sd15": 14, "flux": 6}

KEEP = {"keep_faster": False}


#: Each model once, and each server once; the other pairs with ``scripts/test.py --all``.
each_once = pytest.mark.parametrize(
    ("attention", "model"),
    [
        ("its own attention, patched with sdpa", "sd15"),
        ("PyTorch attention", "flux"),
        pytest.param("its own attention, patched with sdpa", "flux", marks=pytest.mark.long),
        pytest.param("PyTorch attention", "sd15", marks=pytest.mark.long),
    ],
    indirect=["attention"],
)


@pytest.fixture
def attention(request) -> tuple[Server, tuple[str, ...]]:
    """A server, and the nodes that are not needed there."""
    if request.param == "PyTorch attention":
        return request.getfixturevalue("sdpa_server"), ("OneDiffPatchAttention",)
    return request.getfixturevalue("server"), ()


@each_once
def test_compiled_equals_uncompiled_in_one_graph_a_kind_of_block(attention, model):
    server, unneeded = attention
    workflow = bypass(example(model, server, OneDiffCompile=KEEP, OneDiffPatchAttention=SDPA), *unneeded)
    compiled = run(server, workflow)
    uncompiled = run(server, bypass(workflow, "OneDiffCompile"))
    record = compiled.records["OneDiffCompile"]

    regions, graphs = EXPECTED[model]
    assert record["state"] == "compiled", record["summary"]
    assert record["backend"]["used"] == "inductor"
    compiled_here = {
        "regions": regions,
        "regions_compiled": regions,
        "regions_uncompiled": [],
        "graphs": graphs,
        "graph_breaks": [],
        "recompiles": [],
        "cache_notes": [],
    }
    assert {name: record["compile"][name] for name in compiled_here} == compiled_here
    looked_up = record["compile"]["cache_hits"] + record["compile"]["cache_misses"]
    if unneeded:  # on the other server an earlier test may have compiled them
        assert looked_up == graphs
    assert record["parity"]["passed"]
    assert 0 < record["parity"]["relative"] <= record["parity"]["tolerance"] == 1e-4
    assert record["speed"]["eager_ms"] > 0
    assert record["speed"]["compiled_ms"] > 0
    speedup = record["speed"]["speedup"]  # not said where a busy machine made the pairs of steps unlike each other
    assert speedup is None or speedup == pytest.approx(
        record["speed"]["eager_ms"] / record["speed"]["compiled_ms"], rel=0.01
    )
    assert len(record["speed"]["steps_ms"]) == 6
    patched = compiled.records.get("OneDiffPatchAttention")
    assert record["patches"]["sites"] == (patched["patches"]["sites"] if patched else [])
    assert record["check"]["errors"] == 0
    assert record["workflow"] == workflow["id"]

    (picture,), (expected,) = compiled.pictures, uncompiled.pictures
    assert picture.std() > 1, "the picture is flat, so equality would prove nothing"
    assert abs(picture - expected).max() <= 1


@each_once
def test_a_second_sampling_compiles_nothing_and_its_history_holds_the_record(attention, model):
    server, unneeded = attention
    changes: dict[str, Any] = {"OneDiffCompile": KEEP, "OneDiffPatchAttention": SDPA}
    first = run(server, bypass(example(model, server, **changes), *unneeded)).records["OneDiffCompile"]
    again = run(server, bypass(example(model, server, KSampler={"seed": 5, "steps": 6}, **changes), *unneeded))
    record = again.records["OneDiffCompile"]
    assert record["compile"] == first["compile"]
    assert record["measured_at"] >= first["measured_at"]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's memory there")
def test_varied_runs_take_no_more_memory_and_compile_nothing(environment):
    """Sizes, batches, with and without CFG: each twice, on a server that has run each of them before."""
    changes = list(itertools.product([(128, 128), (192, 128), (128, 256)], [1, 2], [1.0, 4.0]))[:6]
    seeds = itertools.count(100)

    def all_changes() -> float:
        for (width, height), batch, cfg in changes:
            latent = {"width": width, "height": height, "batch_size": batch}
            sampler = {"seed": next(seeds), "steps": 3, "cfg": cfg}
            values: dict[str, Any] = {"EmptySD3LatentImage": latent, "KSampler": sampler, "OneDiffCompile": KEEP}
            result = run(server, example("flux", server, **values, OneDiffPatchAttention=SDPA))
            record = result.records["OneDiffCompile"]
            assert (result.error, record["state"], record["compile"]["recompiles"]) == (None, "compiled", [])
        return resident_mb(server)

    with start(environment, "memory", flags=["--use-pytorch-cross-attention"]) as server:
        all_changes()
        before = all_changes()
        all_changes()
        assert all_changes() <= 1.01 * before


def resident_mb(server: Server) -> float:
    """Memory that the server holds, in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1000


@pytest.mark.parametrize("model", list(EXPECTED))
def test_bypassed_nodes_leave_the_hosts_own_picture(server, model):
    workflow = example(model, server, OneDiffCompile=KEEP, OneDiffPatchAttention=SDPA)  # compiled by the first test
    (before,) = run(server, workflow, stock=True).pictures
    assert run(server, workflow).error is None
    (after,) = run(server, bypass(workflow, *OURS)).pictures
    assert (after == before).all()


def test_what_was_patched_and_checked_is_in_the_records(server):
    records = run(server, example("sd15", server, OneDiffPatchAttention=SDPA)).records
    patched = records["OneDiffPatchAttention"]
    assert patched["state"] == "patched"
    assert len(patched["patches"]["sites"]) == SITES["sd15"]
    assert {site["processor"] for site in patched["patches"]["sites"]} == {"sdpa"}
    checked = records["OneDiffForwardCheck"]
    assert (checked["state"], checked["check"]["errors"]) == ("checked", 0)
    assert checked["check"]["modules"] > 300
    assert set(server.status()) >= {f"{records['OneDiffCompile']['workflow']}:{r['node']}" for r in records.values()}


@pytest.mark.long
def test_reference_gives_the_same_picture_as_sdpa_also_compiled(server):
    reference = {"processor": "reference"}
    compiled = run(server, example("sd15", server, OneDiffPatchAttention=reference, OneDiffCompile=KEEP))
    (sdpa,) = run(server, bypass(example("sd15", server, OneDiffPatchAttention=SDPA), "OneDiffCompile")).pictures
    assert compiled.records["OneDiffCompile"]["compile"]["regions_uncompiled"] == []
    assert abs(compiled.pictures[0] - sdpa).max() <= 1


def test_without_the_patch_comfyuis_own_attention_runs_inside_compiled_blocks(server):
    """On a CPU it reads free memory, which no graph can hold."""
    workflow = bypass(example("sd15", server, OneDiffCompile=KEEP), "OneDiffPatchAttention")
    result = run(server, workflow)
    record = result.records["OneDiffCompile"]
    assert result.error is None
    assert (record["state"], record["compile"]["regions_compiled"]) == ("compiled", 15)
    (operator,) = record["compile"]["operators"]
    assert (operator["what"], operator["blocks"]) == ("ComfyUI's attention", 7)
    assert "attention from" not in record["summary"], "it is no other node's"
    (expected,) = run(server, bypass(workflow, "OneDiffCompile")).pictures
    assert abs(result.pictures[0] - expected).max() <= 1


def test_filters_and_an_unknown_glob(server):
    def patched(**values):
        return run(server, bypass(example("sd15", server, steps=1, OneDiffPatchAttention=values), "OneDiffCompile"))

    some = patched(processor="sdpa", sites="cross", blocks="middle_block")
    assert [site["site"] for site in some.records["OneDiffPatchAttention"]["patches"]["sites"]] == [
        "middle_block.1.transformer_blocks.0.attn2"
    ]
    wrong = patched(blocks="midle_block")
    assert wrong.error.startswith("OneDiffPatchAttention: Patch Attention Processors (node ")
    assert "'midle_block' matches no attention site" in wrong.error
    assert "middle_block" in wrong.error
    assert patched(processor="sdpa").error is None, "the queue goes on"


def test_values_of_a_newer_version_run_and_are_named(server):
    result = run(
        server,
        example(
            "sd15",
            server,
            OneDiffPatchAttention={"processor": "sage9", "sites": "temporal"},
            OneDiffCompile={"backend": "tensorrt", "scope": "model", "effort": "extreme", "if_unfit": "ask"},
            OneDiffForwardCheck={"on_problem": "mend"},
        ),
    )
    assert result.error is None
    findings = result.records["OneDiffPatchAttention"]["check"]["findings"]
    assert [finding["what"].partition(" is not known")[0] for finding in findings] == [
        "sites 'temporal'",
        "processor 'sage9'",
    ]
    settings = result.records["OneDiffCompile"]["check"]["findings"]
    assert {finding["path"] for finding in settings} == {"effort", "if_unfit"}
    assert result.records["OneDiffForwardCheck"]["check"]["findings"][0]["path"] == "on_problem"
    backend = result.records["OneDiffCompile"]["backend"]
    assert (backend["requested"], backend["used"]) == ("tensorrt", "inductor")


def test_backends_are_listed_with_reasons(server):
    rows = {row["name"]: row for row in server.get_json("/onediff/backends", timeout=120)["backends"]}
    assert list(rows) == ["inductor", "oneflow", "nexfort"]
    assert rows["inductor"]["available"]
    assert rows["inductor"]["seconds"] > 0
    assert not rows["oneflow"]["available"]
    assert "use inductor" in rows["oneflow"]["reason"]
    assert str(ROOT.parent) not in json.dumps(rows), "no folders of this machine"


def test_auto_says_that_there_is_no_gain_over_pytorchs_attention(sdpa_server: Server) -> None:
    workflow = example("sd15", sdpa_server, steps=2, EmptyLatentImage={"width": 256, "height": 256})
    result = run(sdpa_server, bypass(workflow, "OneDiffCompile", "OneDiffForwardCheck"))
    record = result.records["OneDiffPatchAttention"]
    assert (result.error, record["summary"]) == (None, "auto: no gain, nothing was replaced")
    assert (record["patches"]["sites"], record["patches"]["gain"]["speedup"]) == ([], 1)
    assert record["check"]["warnings"] == 0


def test_model_speedup_compiles(server: Server):
    """With the booster's settings, on a server that may compile, and has compiled that; at the size of the others."""
    old = {
        "torch": node("OneDiffTorchCompileBooster", mode="default", fullgraph=False, dynamic=None, disable=False),
        "boost": node("OneDiffModelBooster", torchcompile_booster=["torch", 0]),
        "old": node("ModelSpeedup", model=["ckpt", 0], custom_booster=["boost", 0], inplace=True),
    }
    steps = {"sampler": node("KSampler", **{**plain()["sampler"]["inputs"], "steps": 5})}
    compiled = node("KSampler", **{**steps["sampler"]["inputs"], "model": ["old", 0]})
    large = {**plain(), "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1)}
    pixels, records = picture(server, {**large, **old, "sampler": compiled})
    expected, _ = picture(server, {**large, **steps})
    record = records["old"]
    assert record["backend"]["used"] == "inductor"
    gains_nothing = record["summary"].startswith("uncompiled: no gain")
    assert record["compile"]["graphs"] > 0 or gains_nothing, record["summary"]
    assert abs(pixels - expected).max() <= 1
