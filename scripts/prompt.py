"""Turns a workflow file as the editor saves it into the prompt that ComfyUI's HTTP API takes.

It follows the editor's own rules: widget values by position, links before widget values, muted nodes left out, bypassed
nodes passed through. Subgraphs are not handled.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

MUTED, BYPASSED = 2, 4
_NOTES = {"Note", "MarkdownNote"}
_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
_AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}

Workflow = dict[str, Any]
Prompt = dict[str, dict[str, Any]]


def load_workflow(path: Path) -> Workflow:
    return json.loads(path.read_text(encoding="utf-8"))


def to_prompt(workflow: Workflow, object_info: dict[str, Any]) -> Prompt:
    """The API prompt: `{"3": {"class_type": "KSampler", "inputs": {"seed": 7, "model": ["1", 0]}, "_meta": …}}`."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        kind = node["type"]
        if kind in _NOTES or kind == "Reroute" or node.get("mode") in (MUTED, BYPASSED):
            continue
        if kind not in object_info:
            raise ValueError(f"node {node['id']} is a {kind}, which this ComfyUI does not have")
        inputs = widget_values(node, object_info[kind])
        for slot in node.get("inputs", ()):
            origin = _origin(slot.get("link"), nodes, links)
            if origin is not None:
                inputs[slot["name"]] = origin
        title = node.get("title") or object_info[kind].get("display_name") or kind
        prompt[str(node["id"])] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    return prompt


def widget_names(info: dict[str, Any]) -> list[str | None]:
    """Names in the order of `widgets_values`; None is a value that stays in the editor ("randomize" after a seed)."""
    names: list[str | None] = []
    for group in ("required", "optional"):
        for name in info.get("input_order", {}).get(group, ()):
            spec = info["input"][group][name]
            kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
            if not (isinstance(kind, list) or kind in _WIDGET_TYPES) or options.get("forceInput"):
                continue
            names.append(name)
            if options.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
                names.append(None)
    return names


def widget_values(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        return dict(values)
    result, names, position = {}, widget_names(info), 0
    for name in names:
        if position >= len(values):
            break
        # Files from before that widget existed, or written by hand, may leave the editor's own value out.
        if name is None and values[position] not in _AFTER_GENERATE:
            continue
        if name is not None:
            result[name] = values[position]
        position += 1
    return result


def _origin(link_id: int | None, nodes: dict[int, Any], links: dict[int, list]) -> list | None:
    """Where a link's value comes from, through bypassed nodes and reroutes; None if from nowhere."""
    seen: set[int] = set()
    while link_id is not None and link_id in links and link_id not in seen:
        seen.add(link_id)
        _, source, slot, *_ = links[link_id]
        node = nodes[source]
        if node["type"] == "Reroute":
            link_id = node["inputs"][0].get("link")
        elif node.get("mode") == BYPASSED:
            link_id = _through(node, slot)
        elif node.get("mode") == MUTED:
            return None
        else:
            return [str(source), slot]
    return None


def _through(node: dict[str, Any], slot: int) -> int | None:
    """The link that a bypassed node passes on: of the input across from the output if it fits, else the first fit."""
    wanted = node["outputs"][slot]["type"]
    inputs = node.get("inputs", [])
    across = inputs[slot : slot + 1]
    for candidate in (*across, *inputs):
        if candidate["type"] in (wanted, "*") or wanted == "*":
            return candidate.get("link")
    return None


def with_values(workflow: Workflow, info: dict[str, Any], changes: dict[str, dict[str, Any]]) -> Workflow:
    """A copy with widget values changed on every node of a type: `{"KSampler": {"steps": 4}}`."""
    changed = copy.deepcopy(workflow)
    for node in changed["nodes"]:
        for name, value in changes.get(node["type"], {}).items():
            names = widget_names(info[node["type"]])
            node["widgets_values"][names.index(name)] = value
    return changed


def with_mode(workflow: Workflow, types: set[str], mode: int = BYPASSED) -> Workflow:
    """A copy with every node of these types bypassed (or muted): the A of an A/B comparison."""
    changed = copy.deepcopy(workflow)
    for node in changed["nodes"]:
        if node["type"] in types:
            node["mode"] = mode
    return changed


def swap(prompt: Prompt, old: str, new: str, inputs: dict[str, Any], outputs: dict[int, int]) -> Prompt:
    """A prompt whose `old` nodes are `new` ones, with `outputs` mapping old output slots to new ones.

    `swap(p, "DualCLIPLoader", "CheckpointLoaderSimple", {"ckpt_name": "a.safetensors"}, {0: 1})` takes the text encoder
    of a checkpoint, whose second output is the CLIP.
    """
    changed = copy.deepcopy(prompt)
    swapped = {key for key, node in changed.items() if node["class_type"] == old}
    for key in swapped:
        changed[key] = {"class_type": new, "inputs": dict(inputs), "_meta": {"title": new}}
    for node in changed.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and len(value) == 2 and value[0] in swapped:
                node["inputs"][name] = [value[0], outputs[value[1]]]
    return changed
