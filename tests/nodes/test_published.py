"""Workflow files and scripts name nodes, inputs and outputs: what was published stays as it is.

``published.json`` has every node with its inputs (type and default, in order) and the types of its outputs. What is new
is added there. What is changed or taken away breaks somebody's workflow: it needs a replacement first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")

pytestmark = pytest.mark.usefixtures("host")

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))

#: Choices that depend on the machine: their first entry is no default of ours.
OF_THE_MACHINE = {"ckpt_name", "control_net_name", "style", "sampler_name", "scheduler"}


def published_as(node: Any) -> dict[str, Any]:
    groups = node.INPUT_TYPES()
    inputs = {}
    for group in ("required", "optional"):
        for name, (kind, options) in groups.get(group, {}).items():
            default = None if name in OF_THE_MACHINE else options.get("default")
            inputs[name] = [kind, default, *(["required"] if group == "required" else [])]
    return {"inputs": inputs, "outputs": list(node.RETURN_TYPES)}


def now() -> dict[str, Any]:
    from onediff_pack.host.migration.prompt_styles import register_folder
    from onediff_pack.host.offered_processors import register_folder as register_processors
    from onediff_pack.nodes.compile import OneDiffCompile
    from onediff_pack.nodes.compile_control_net import OneDiffCompileControlNet
    from onediff_pack.nodes.compile_vae import OneDiffCompileVAE
    from onediff_pack.nodes.forward_check import OneDiffForwardCheck
    from onediff_pack.nodes.ip_adapter import OneDiffIPAdapter
    from onediff_pack.nodes.load_processor import OneDiffLoadProcessor
    from onediff_pack.nodes.migration.node import made
    from onediff_pack.nodes.migration.table import ROWS
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention
    from onediff_pack.nodes.speed_report import OneDiffSpeedReport

    register_folder()
    register_processors()
    nodes: list[Any] = [
        OneDiffPatchAttention,
        OneDiffForwardCheck,
        OneDiffCompile,
        OneDiffSpeedReport,
        OneDiffLoadProcessor,
        OneDiffIPAdapter,
        OneDiffCompileVAE,
        OneDiffCompileControlNet,
        *map(made, ROWS),
    ]
    return {node.GET_SCHEMA().node_id: published_as(node) for node in nodes}


def test_nodes_are_as_they_were_published():
    nodes = now()
    assert list(nodes) == list(PUBLISHED)
    for name, node in nodes.items():
        assert node == PUBLISHED[name], name
        assert list(node["inputs"]) == list(PUBLISHED[name]["inputs"]), f"{name}: files save values in this order"
