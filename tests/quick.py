"""A workflow that runs in a second: a small checkpoint is patched and checked, nothing is sampled."""

from __future__ import annotations

from typing import Any

from editor import CHECK, PATCH


def quick_workflow(name: str, sites: str = "all") -> dict[str, Any]:
    """In editor format, with the Forward Check as node 12. ``name`` makes the workflow's id."""
    return {
        "id": f"00000000-0000-4000-8000-{name.encode().hex():0>12.12}",
        "version": 0.4,
        "last_node_id": 13,
        "last_link_id": 3,
        "nodes": [
            _node(
                11, "CheckpointLoaderSimple", 0, {}, {"MODEL": [1], "CLIP": [], "VAE": []}, ["sd15_small.safetensors"]
            ),
            _node(10, PATCH, 340, {"model": ("MODEL", 1)}, {"MODEL": [2]}, ["sdpa", sites, ""]),
            _node(12, CHECK, 680, {"model": ("MODEL", 2)}, {"MODEL": [], "STRING": [3], "BOOLEAN": []}, ["report"]),
            _node(13, "PreviewAny", 1020, {"source": ("*", 3)}, {}, []),
        ],
        "links": [[1, 11, 0, 10, 0, "MODEL"], [2, 10, 0, 12, 0, "MODEL"], [3, 12, 1, 13, 0, "STRING"]],
        "groups": [],
        "config": {},
        "extra": {},
    }


def _node(number: int, kind: str, x: int, inputs: dict, outputs: dict[str, list[int]], values: list) -> dict[str, Any]:
    return {
        "id": number,
        "type": kind,
        "pos": [x, 0],
        "size": [300, 160],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": name, "type": type_, "link": link} for name, (type_, link) in inputs.items()],
        "outputs": [{"name": name, "type": name, "links": links} for name, links in outputs.items()],
        "properties": {},
        "widgets_values": values,
    }
