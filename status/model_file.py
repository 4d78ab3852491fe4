"""Where a model comes from, as far as the prompt tells: its file, and what its nodes were given."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from .plain import is_comparable, short_id
from .prompts import NodeClass, is_link

#: What a name that a loader is given ends in.
FILE = re.compile(r"[^\\/]+\.(safetensors|sft|gguf|ckpt|pth|pt|bin)$", re.IGNORECASE)


#: Nodes before one, and values of each, that are told.
MOST_NODES, MOST_VALUES = 16, 16


def model_file(prompt: Any, node: Any, class_of: Callable[[str], NodeClass]) -> str | None:
    """``sd15.safetensors`` for a node behind a loader of ``SD/sd15.safetensors``; None where the prompt does not
    tell."""
    values: list[Any] = []
    for name in _way(prompt, node, class_of):
        values = list(_inputs(prompt, name).values())
    if any(_is_model(prompt, value, class_of) for value in values):
        return None  # in a circle
    named = (FILE.search(value) for value in values if isinstance(value, str))
    return next((found.group() for found in named if found), None)


def model_nodes(prompt: Any, node: Any, class_of: Callable[[str], NodeClass]) -> dict[str, dict[str, Any]]:
    """What the nodes were given that a node's model passed before it, by execution id and input: texts, numbers and
    switches. ``{"4": {"ckpt_name": "sd15.safetensors"}}``."""
    found: dict[str, dict[str, Any]] = {}
    for name in itertools.islice(_way(prompt, node, class_of), 1, MOST_NODES + 1):
        plain = {key: value for key, value in _inputs(prompt, name).items() if is_comparable(value)}
        found[short_id(name)] = dict(itertools.islice(plain.items(), MOST_VALUES))
    return found


def _way(prompt: Any, node: Any, class_of: Callable[[str], NodeClass]) -> Iterator[str]:
    """The node itself, then those before it, up to the one that loads the model."""
    seen: set[str] = set()
    current: str | None = str(node)
    while isinstance(prompt, dict) and current is not None and current in prompt and current not in seen:
        seen.add(current)
        yield current
        values = _inputs(prompt, current).values()
        current = next((value[0] for value in values if _is_model(prompt, value, class_of)), None)


def _inputs(prompt: dict[str, Any], node: str) -> dict[str, Any]:
    inputs = prompt[node].get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _is_model(prompt: dict[str, Any], value: Any, class_of: Callable[[str], NodeClass]) -> bool:
    """Whether an input is a link to an output that hands a model on."""
    if not is_link(value) or value[0] not in prompt:
        return False
    outputs = class_of(str(prompt[value[0]].get("class_type"))).outputs
    return value[1] < len(outputs) and outputs[value[1]] == "MODEL"
