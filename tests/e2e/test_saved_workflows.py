"""Workflows as earlier versions of this pack saved them (tests/workflows): they open, keep their values, and run.

On the server of old workflows nothing new is compiled; what is asked here is whether the files still mean the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from editor import load, open_editor
from examples import EXAMPLES, example_file
from old_workflows import old_server

from scripts.environment import Environment
from scripts.prompt import load_workflow, to_prompt, with_values
from scripts.server import Server, error_of, serve

FILES = sorted((Path(__file__).parents[1] / "workflows").glob("*.json"))

#: What all of them were saved with, by input.
SAVED: dict[str, dict[str, Any]] = {
    "OneDiffPatchAttention": {"processor": "sdpa", "sites": "all", "blocks": ""},
    "OneDiffForwardCheck": {"on_problem": "report"},
    "OneDiffCompile": {
        "backend": "auto",
        "scope": "blocks",
        "effort": "fast start",
        "if_unfit": "run uncompiled",
        "keep_faster": True,
    },
}
SMALL: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": "sd15_small.safetensors"},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 2},
}


@pytest.fixture(scope="module")
def server(environment: Environment) -> Iterator[Server]:
    with old_server(environment) as running:
        yield running


def ours(prompt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The values of the pack's nodes in a prompt, as far as the files hold them."""
    found = {node["class_type"]: node["inputs"] for node in prompt.values() if node["class_type"] in SAVED}
    return {kind: {name: found[kind][name] for name in SAVED[kind]} for kind in found}


@pytest.mark.parametrize("file", [file for file in FILES if "sd15" in file.name], ids=lambda file: file.stem)
def test_it_runs_with_the_values_that_it_was_saved_with(server: Server, file: Path) -> None:
    workflow = with_values(load_workflow(file), server.object_info(), SMALL)
    prompt = to_prompt(workflow, server.object_info())
    assert ours(prompt) == SAVED
    entry = server.run(prompt, workflow)
    assert error_of(entry) is None
    assert server.images(entry)
    states = [output["onediff"][0]["state"] for output in entry["outputs"].values() if "onediff" in output]
    assert len(states) == 3 and "failed" not in states


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_opens_in_the_editor_and_is_sent_with_the_same_values(opened: Any, file: Path) -> None:
    load(opened, load_workflow(file))
    missing = "app.graph.nodes.filter(node => !LiteGraph.registered_node_types[node.type]).map(node => node.type)"
    assert opened.evaluate(missing) == []
    assert ours(opened.evaluate("async () => (await app.graphToPrompt()).output")) == SAVED


@pytest.fixture(scope="module")
def without_pack(environment: Environment, browser: Any) -> Iterator[Any]:
    """The editor of a ComfyUI that does not have this pack."""
    base = environment.cache / "e2e" / f"without-pack{os.environ.get('PYTEST_XDIST_WORKER', '')}"
    with serve(environment, base, pack=False) as server:
        assert "OneDiffCompile" not in server.object_info()
        page = open_editor(browser.new_page(viewport={"width": 1600, "height": 900}), server.url)
        yield page
        page.close()


@pytest.mark.long
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_comes_back_from_a_comfyui_without_this_pack_as_it_was(without_pack: Any, opened: Any, name: str) -> None:
    """Opened there, moved a little and saved again."""
    workflow = load_workflow(example_file(name))
    for node in workflow["nodes"]:
        if node["type"] == "OneDiffCompile":
            node["widgets_values"] = ["inductor", "attention", "max speed", "stop", False]
            node["properties"]["onediff"] = {"summary": "compiled · 1.62×", "speed": {"speedup": 1.62}}
    sent = "async () => (await app.graphToPrompt()).output"
    load(opened, workflow)
    before = opened.evaluate(sent)
    load(without_pack, workflow)
    saved = without_pack.evaluate("() => { app.graph.nodes[0].pos[0] += 10; return app.graph.serialize(); }")
    kept = {node["id"]: node for node in saved["nodes"]}
    for node in workflow["nodes"]:
        if node["type"].startswith("OneDiff"):
            assert kept[node["id"]]["widgets_values"] == node["widgets_values"]
            assert kept[node["id"]]["properties"].get("onediff") == node["properties"].get("onediff")
    load(opened, saved)
    after = opened.evaluate(sent)
    assert {key: node["inputs"] for key, node in after.items()} == {key: node["inputs"] for key, node in before.items()}
    assert [node["class_type"] for node in after.values()] == [node["class_type"] for node in before.values()]
