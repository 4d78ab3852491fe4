"""The benchmark's table: what its rows become, and that docs/benchmarks.md shows what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import first_picture, side_by_side, table
from benchmarks.cases import CPU, CUDA, WAYS, prompt, sitting, usual

ROOT = Path(__file__).resolve().parents[2]


def row(way, **values):
    usual = {"model": "m", "label": "Model", "way": way, "step_ms": 100.0, "ratio": 1.0}
    usual |= {"ratio_low": 0.9, "ratio_high": 1.1, "sitting_compile_s": None, "difference": 0.0}
    return {**usual, **values}


def result(*rows):
    machine = {"device": "cpu", "name": "Chip", "cores": 2, "system": "Linux"}
    machine |= {"python": "3.11", "torch": "2", "comfyui": "0"}
    return {"date": "2030-01-02", "flags": ["--flag"], "machine": machine, "rows": list(rows)}


def test_the_page_shows_what_was_measured():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert table.with_section(text, ROOT / "benchmarks" / "results") == text, "run side_by_side.py --write"


def test_medians_of_several_runs_are_said_to_be_such():
    lines = table.table(result(row("uncompiled", repeats=3), row("OneDiff Compile", repeats=3)))
    assert lines[2].startswith("| Model; medians of 3 |")
    assert lines[3].startswith("|  |")


def test_a_device_without_results_was_not_run(tmp_path):
    assert "On a CPU: not run." in table.section(tmp_path)
    (tmp_path / "cpu.json").write_text(json.dumps(result(row("uncompiled"))))
    written = table.section(tmp_path)
    assert "On a CPU: Chip, 2 cores" in written
    assert "2030-01-02" in written
    assert "On an NVIDIA GPU: not run." in written


def test_a_page_without_the_comments_is_left_alone(tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text("no table")
    with pytest.raises(ValueError, match="lacks the two comments"):
        table.write_tables(page, tmp_path)
    assert page.read_text() == "no table"


def test_figures_are_rounded_and_missing_ones_are_dashes():
    ours = row("OneDiff Compile", first_step_s=12.34, sitting_compile_s=20.06, sitting_compiles=2, graphs=4, breaks=0)
    lines = table.table(result(row("uncompiled"), {**ours, "difference": 2.3e-6}))
    assert lines[2] == "| Model | uncompiled | - | - | 100.0 | 1.00 (0.90-1.10) | - | - | - | - |"
    assert lines[3] == "|  | OneDiff Compile | 12.3 | 20.1 (2) | 100.0 | 1.00 (0.90-1.10) | 4 | 0 | - | 2e-06 |"


def test_claims_compare_this_pack_with_each_other_way():
    seconds = dict(zip(WAYS, (1.0, 40.0, 10.0, 20.0, 50.0), strict=True))
    rows = [row(way, first_step_s=s, sitting_compile_s=s, ratio=0.98) for way, s in seconds.items()]
    said = table.claims(result(*rows))
    assert (
        "TorchCompileModel's seconds OneDiff Compile takes: first step 0.25, compiling in the sitting 0.25" in said[0]
    )
    assert "block by block's seconds OneDiff Compile takes: first step 0.20" in said[1]
    assert "with OneDiff Compile a step takes 1.02 times as long as uncompiled" in said[2]
    assert "TorchCompileModel's seconds OneDiff Compile, only if faster off takes: first step 0.50" in said[3]


def test_repeats_are_combined_to_medians_of_times_and_the_most_of_counts():
    fields = ("first_step_s", "first_compile_s", "sitting_compile_s", "step_ms", "ratio", "peak_mb", "sitting_compiles")
    counts = ("graphs", "breaks", "recompiles", "later_compiles", "difference", "ratio_low", "ratio_high")
    rows = [{**dict.fromkeys((*fields, *counts), v), "way": "a", "steps_ms": [v]} for v in (3.0, 1.0, 2.0)]
    rows[0]["peak_mb"] = None
    row = side_by_side.combined(rows)
    assert [row[name] for name in fields] == [2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 3.0]
    assert (row["graphs"], row["ratio_low"], row["ratio_high"]) == (3.0, 1.0, 3.0)
    assert (row["steps_ms"], row["repeats"], row["way"]) == ([3.0, 1.0, 2.0], 3, "a")


def call(seconds, compiling=0.0, libraries=0):
    return {"seconds": seconds, "compile_seconds": compiling, "libraries": libraries}


def test_the_first_step_ends_with_the_last_call_that_compiled():
    calls = [call(2.0), call(30.0, 28.0), call(2.0), call(2.0)]
    assert side_by_side.first_step({"seconds": 37.0, "calls": calls}) == 33.0
    assert side_by_side.first_step({"seconds": 5.0, "calls": [call(2.0), call(2.0)]}) == 3.0
    built_beside = [call(10.0, 8.0), call(2.0), call(3.0, libraries=1), call(2.0)]
    assert side_by_side.first_step({"seconds": 18.0, "calls": built_beside}) == 16.0, "loaded in a later step"


@pytest.mark.parametrize("model", [*CPU, *CUDA], ids=lambda model: model.name)
def test_ways_differ_in_the_compile_node_alone(model):
    prompts = {way: prompt(model, way, usual(model), 2, 1, "k") for way in WAYS}
    for way, nodes in prompts.items():
        assert (nodes.pop("compile", None) is None) == (way == "uncompiled")
        nodes["sampler"]["inputs"].pop("model")
        nodes["keep"]["inputs"].pop("way")
    assert all(nodes == prompts["uncompiled"] for nodes in prompts.values())


def test_the_sitting_returns_to_the_first_checkpoint_and_ends_with_a_batch():
    settings = dict(sitting(CPU[0]))
    assert settings["other checkpoint"].checkpoint == "flux_small_other"
    assert settings["back"].checkpoint == "flux_small"
    assert settings["LoRA removed"].lora is None
    assert (settings["batch 4"].batch, settings["batch 4"].cfg, settings["batch 4"].tokens) == (4, 5.0, 231)


def test_only_names_models():
    assert [m.name for m in side_by_side.chosen(CPU, ["sd15"], False)] == ["sd15"]
    assert [m.name for m in side_by_side.chosen(CPU, None, True)] == ["flux_small"]
    with pytest.raises(side_by_side.console.CannotContinue, match="no such model"):
        side_by_side.chosen(CPU, ["sd51"], False)


def test_the_parts_of_a_first_step_add_up_and_processor_time_is_another_clock():
    parts = {"tracing": 2.0, "C++ or Triton": 5.0, "comparing": 1.0, "own CPU": 30.0, "compilers' CPU": 9.0}
    found = first_picture.by_part(10.0, parts)
    assert list(found) == ["first step", "tracing", "C++ or Triton", "comparing", "steps and nodes", *list(parts)[3:]]
    assert (found["first step"], found["steps and nodes"], found["own CPU"]) == (10.0, 2.0, 30.0)


def test_versions_stand_beside_each_other_and_what_one_has_not_is_a_dash():
    turns = [{"first step": 1.0, "timing": 0.5}, {"first step": 9.0}, {"first step": 2.0, "timing": 0.25}]
    lines = first_picture.table({"this": first_picture.median(turns), "old": {"first step": 3.04}})
    assert lines == [
        "| seconds | this | old |",
        "| --- | ---: | ---: |",
        "| first step | 2.0 | 3.0 |",
        "| timing | 0.2 | - |",
    ]
