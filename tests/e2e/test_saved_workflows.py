"""Workflows as earlier versions of this pack saved them (tests/workflows): they open, keep their values, and run.

On the server of old workflows nothing new is compiled; what is asked here is whether the files still mean the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from editor import load
from old_workflows import old_server

from scripts.environment import Environment
from scripts.prompt import load_workflow, to_prompt, with_values
from scripts.server import Server, error_of

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
