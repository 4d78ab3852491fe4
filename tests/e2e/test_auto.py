"""``auto`` on the real server: what it picks with ComfyUI's default flags, what is remembered for the next start, and
that files of version 0.4.0 open as they were. With PyTorch's attention: ``test_workflows.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from editor import PATCH, load
from examples import bypass, example, run, start
from quick import quick_workflow

from scripts.environment import Environment
from scripts.server import Server

SIZE = {"width": 512, "height": 512}


def patched(server: Server) -> tuple[dict[str, Any], Any]:
    """Two steps of the example as it is, of the small SD 1.5 at 512²: the record of the node, and the picture."""
    workflow = example("sd15", server, steps=2, EmptyLatentImage=SIZE)
    result = run(server, bypass(workflow, "OneDiffCompile", "OneDiffForwardCheck"))
    assert result.error is None
    return result.records[PATCH], result.pictures[0]


@pytest.fixture
def kept(environment: Environment) -> Iterator[Path]:
    file = environment.cache / "e2e" / "auto" / "user" / "__onediff" / "attention.json"
    file.unlink(missing_ok=True)
    yield file


def sdpas(patches: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What came of ``sdpa``, by shape."""
    candidates = {row["shape"]: row["candidates"] for row in patches["choices"]}
    return {shape: one for shape, tried in candidates.items() for one in tried if one["processor"] == "sdpa"}


@pytest.mark.serial
def test_sdpa_is_picked_with_default_flags_and_the_next_start_reads_that(environment: Environment, kept: Path) -> None:
    with start(environment, "auto") as server:
        record, picture = patched(server)
    patches = record["patches"]
    assert (patches["auto"]["state"], patches["auto"]["processors"]) == ("chosen", ["sdpa"])
    assert (patches["auto"]["source"], len(patches["sites"])) == ("measured", 14)
    assert patches["auto"]["seconds"] < 2.5, "the first step's extra"
    assert patches["auto"]["attention_speedup"] > 1.2
    assert patches["gain"]["before_ms"] > patches["gain"]["after_ms"]
    assert "auto: sdpa · attention " in record["summary"]
    assert kept.is_file() and json.loads(kept.read_text())

    with start(environment, "auto") as server:
        again, same = patched(server)
    timed = {shape: one["ms"] for shape, one in sdpas(patches).items() if one["ms"] is not None}
    assert timed, "what was tried"
    assert {shape: sdpas(again["patches"])[shape]["ms"] for shape in timed} == timed, "was not tried again"
    assert again["patches"]["auto"]["source"] == ("disk" if len(timed) == len(patches["choices"]) else "measured")
    assert again["patches"]["sites"] == patches["sites"]
    assert abs(same - picture).max() <= 1


def test_a_file_of_version_0_4_0_keeps_its_values(opened: Any) -> None:
    """It has three values, no quality, and a processor that is connected by its name."""
    workflow = quick_workflow("auto", "cross")
    node = next(one for one in workflow["nodes"] if one["type"] == PATCH)
    node["widgets_values"] = ["sdpa", "cross", "middle_block"]
    node["inputs"].append({"name": "custom", "type": "ONEDIFF_PROCESSOR", "shape": 7, "link": None})
    load(opened, workflow)
    prompt = opened.evaluate("async () => (await app.graphToPrompt()).output")
    (inputs,) = (one["inputs"] for one in prompt.values() if one["class_type"] == PATCH)
    assert {name: value for name, value in inputs.items() if name != "model"} == {
        "processor": "sdpa",
        "sites": "cross",
        "blocks": "middle_block",
        "quality": "exact",
    }
    saved = opened.evaluate("app.graph.serialize().nodes.find(node => node.type === 'OneDiffPatchAttention')")
    assert saved["widgets_values"][:4] == ["sdpa", "cross", "middle_block", "exact"]
    assert [one["name"] for one in saved["inputs"] if one["type"] in ("MODEL", "ONEDIFF_PROCESSOR")] == [
        "model",
        "custom",
    ]
