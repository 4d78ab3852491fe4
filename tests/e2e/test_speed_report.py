"""The speed report on the real server: the plot, the figures, Cancel, and what clearing does."""

from __future__ import annotations

import json
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from examples import SDPA, example, node_classes, run, start
from PIL import Image

from scripts.environment import Environment
from scripts.prompt import swap, to_prompt
from scripts.server import Server, error_of

STEPS = 3
BACKEND = "inductor"


def report_prompt(server: Server, *, compile_node: bool = True, steps: int = STEPS) -> dict[str, Any]:
    """The example for Flux with a Speed Report in place of its sampler; plot saved, figures previewed."""
    prompt = to_prompt(example("flux", server, OneDiffPatchAttention=SDPA), node_classes(server))
    prompt = swap(prompt, "DualCLIPLoader", "CheckpointLoaderSimple", {"ckpt_name": "sd15_small.safetensors"}, {0: 1})
    (sampler,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "KSampler")
    inputs = {
        "model": sampler["model"],
        "positive": sampler["positive"],
        "negative": sampler["negative"],
        "latent": sampler["latent_image"],
        "steps": steps,
        "cfg": 1.0,
    }
    if not compile_node:
        (compile_inputs,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "OneDiffCompile")
        inputs["model"] = compile_inputs["model"]
    gone = ("KSampler", "VAEDecode", "SaveImage", "PreviewImage", "VAELoader")
    kept = {key: node for key, node in prompt.items() if node["class_type"] not in gone}
    return kept | {
        "100": {"class_type": "OneDiffSpeedReport", "inputs": inputs},
        "101": {"class_type": "SaveImage", "inputs": {"images": ["100", 0], "filename_prefix": "report"}},
        "102": {"class_type": "PreviewAny", "inputs": {"source": ["100", 1]}},
    }


def record_of(server: Server, node: str = "100") -> dict[str, Any]:
    """These prompts come without a workflow: the record of one, where other files have run nodes with these ids."""
    return server.status()[f"-:{node}"]


@pytest.fixture(scope="module")
def entry(server: Server) -> dict[str, Any]:
    return server.run(report_prompt(server))


def figures_of(entry: dict[str, Any]) -> dict[str, Any]:
    assert error_of(entry) is None
    return json.loads(entry["outputs"]["102"]["text"][0])


def test_the_figures_are_those_of_three_ways(entry):
    """Without the nodes, with patched attention, and compiled around that."""
    figures = figures_of(entry)
    ways = [(sampling["without"], sampling["compiled"]) for sampling in figures["samplings"]]
    assert ways[:6] == [(True, False), (False, False), (False, True)] * 2
    without, patched = figures["without"]["median_ms"], figures["uncompiled"]["median_ms"]
    assert figures["patch_speedup"] == pytest.approx(without / patched, rel=0.01)
    unclear = figures["outcome"] == "slower" or figures["noisy"]
    kept = patched if unclear else figures["compiled"]["median_ms"]
    assert figures["total_speedup"] == pytest.approx(without / kept, rel=0.01)
    for sampling in figures["samplings"]:
        assert len(sampling["steps_ms"]) == STEPS
    assert figures["uncompiled"]["median_ms"] > 0
    assert figures["compiled"]["median_ms"] > 0
    assert figures["speedup"] == pytest.approx(
        figures["uncompiled"]["median_ms"] / figures["compiled"]["median_ms"], rel=0.01
    )
    assert figures["compile"]["blocks_compiled"] == figures["compile"]["blocks"] == 6
    assert figures["compile"]["seconds"] > 0
    assert figures["backend"]["used"] == BACKEND
    assert 0 < figures["error"]["relative"] < 1e-3
    assert figures["repeat_error"] == {"max_abs": 0, "relative": 0}
    assert figures["notes"] == []


def test_the_plot_is_saved_and_shown_on_the_node(server, entry):
    import io

    saved = [Image.open(io.BytesIO(data)) for data in server.images(entry)]
    assert len(entry["outputs"]["100"]["images"]) == 1
    assert len(saved) == 2
    for picture in saved:
        assert picture.size == (1200, 675)
        assert len(picture.getcolors(1 << 20)) > 50, "a plot, not an empty picture"


def test_the_record_says_what_the_report_says(entry):
    record, figures = entry["outputs"]["100"]["onediff"][0], figures_of(entry)
    assert record["node"] == "100"
    assert record["speed"]["eager_ms"] == figures["uncompiled"]["median_ms"]
    assert record["speed"]["speedup"] == figures["speedup"]
    assert record["speed"]["without_ms"] == figures["without"]["median_ms"]
    assert record["speed"]["patch_speedup"] == (None if figures["patch_noisy"] else figures["patch_speedup"])
    if not figures["patch_noisy"]:
        assert record["speed"]["total_speedup"] == figures["total_speedup"]
    assert record["speed"]["verdict"] == (None if figures["noisy"] else figures["outcome"])
    assert set(record["speed"]["steps_kind"]) == {"compiled", "uncompiled"}
    slower = figures["outcome"] == "slower" and not figures["noisy"]
    assert record["state"] == ("uncompiled" if slower else "compiled")
    assert record["progress"] is None


def test_panel_and_plot_have_the_same_cost_and_name_the_checkpoint(entry):
    record, figures = entry["outputs"]["100"]["onediff"][0], figures_of(entry)
    assert record["compile"]["seconds"] == pytest.approx(figures["compile"]["seconds"], abs=0.06)
    assert record["compile"]["earlier"] is (not figures["compile"]["fresh"])
    assert record["speed"]["breakeven_images"] == figures["breakeven_images"]
    assert record["speed"]["noisy"] is figures["noisy"]
    assert record["model"]["file"] == figures["model"]["file"] == "flux_small.safetensors"


def test_the_compile_node_in_front_says_what_was_measured(server, entry):
    """Nothing else samples with its settings: it must not wait for ever, nor say that it was not used."""
    report = record_of(server)
    prompt = report_prompt(server)
    (compile_id,) = (key for key, node in prompt.items() if node["class_type"] == "OneDiffCompile")
    record = record_of(server, compile_id)
    assert record["state"] == report["state"]
    assert record["speed"] == report["speed"]
    assert record["unused"] is None


def test_after_clearing_measurements_the_report_is_made_anew(server, entry):
    before = figures_of(server.run(report_prompt(server)))
    assert before == figures_of(entry), "until then, ComfyUI has it"
    assert server.post_json("/onediff/clear", {"what": "measurements"})["cleared"] == (
        "Step times are forgotten. The next sampling is timed again."
    )
    assert all(record["speed"] is None for record in server.status().values())
    after = figures_of(server.run(report_prompt(server)))
    assert after["samplings"] != before["samplings"]
    assert not after["compile"]["fresh"]


def test_without_a_compile_node_the_defaults_are_used_and_named(server, entry):
    figures = figures_of(server.run(report_prompt(server, compile_node=False)))
    assert figures["compiled"]["steps"] >= STEPS
    assert "no OneDiff Compile node" in figures["notes"][0]
    assert not figures["compile"]["fresh"], "the graphs of the first report serve here too"


@pytest.mark.long
def test_without_a_compiler_the_report_comes_and_says_what_is_missing(environment: Environment, tmp_path: Path):
    variables = {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    with start(environment, "no_compiler_report", cold=True, variables=variables) as bare:
        entry = bare.run(report_prompt(bare))
        figures = figures_of(entry)
        assert len(bare.images(entry)) == 2
        record = record_of(bare)
    assert figures["uncompiled"]["median_ms"] > 0
    assert (figures["compiled"], figures["speedup"], figures["outcome"]) == (None, None, "uncompiled")
    assert "no working C++ compiler was found" in figures["reason"]
    assert "Nothing was compiled: " in figures["verdict"]
    assert record["state"] == "uncompiled"
    assert "no working C++ compiler was found" in record["summary"]


def test_cancel_in_the_middle_ends_the_report_and_the_next_run_works(server, entry):
    prompt_id = server.queue(report_prompt(server, steps=60))
    deadline = time.monotonic() + 120
    while record_of(server)["state"] != "measuring" and time.monotonic() < deadline:
        time.sleep(0.1)
    server.post_json("/interrupt", {})
    assert error_of(server.wait(prompt_id, timeout=60)) == "the run was interrupted"
    assert record_of(server)["state"] == "idle"
    assert record_of(server)["progress"] is None
    assert run(server, example("flux", server, steps=2)).error is None


@pytest.mark.parametrize("body", [{"what": "everything"}, {}, ["measurements"], {"what": ["measurements"]}])
def test_clearing_something_unknown_is_refused_with_what_is_known(server, body):
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.post_json("/onediff/clear", body)
    assert refused.value.code == 400
    error = json.loads(refused.value.read())["error"]
    assert '{"what": "measurements"} or {"what": "compile cache"} or {"what": "backends"}' in error
