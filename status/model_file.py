"""Which file a model was loaded from, as far as the prompt tells."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .prompts import NodeClass, is_link

#: What a name that a loader is given ends in.
FILE = re.compile(r"[^\\/]+\.(safetensors|sft|gguf|ckpt|pth|pt|bin)$", re.IGNORECASE)


def model_file(prompt: Any, node: Any, class_of: Callable[[str], NodeClass]) -> str | None:
    """``sd15.safetensors`` for a node behind a loader of ``SD/sd15.safetensors``; None where the prompt does not
    tell."""
    seen: set[str] = set()
    current: str | None = str(node)
    while isinstance(prompt, dict) and current is not None and current in prompt and current not in seen:
        seen.add(current)
        inputs = prompt[current].get("inputs")
        values = list(inputs.values()) if isinstance(inputs, dict) else []
        current = next((value[0] for value in values if _is_model(prompt, value, class_of)), None)
        if current is None:
            named = (FILE.search(value) for value in values if isinstance(value, str))
            return next((found.group() for found in named if found), None)
    return None


def _is_model(prompt: dict[str, Any], value: Any, class_of: Callable[[str], NodeClass]) -> bool:
    """Whether an input is a link to an output that hands a model on."""
    if not is_link(value) or value[0] not in prompt:
        return False
    outputs = class_of(str(prompt[value[0]].get("class_type"))).outputs
    return value[1] < len(outputs) and outputs[value[1]] == "MODEL"
