"""Values in the inputs of old nodes that ComfyUI would refuse, or change, before the node sees them."""

from __future__ import annotations

from typing import Any

from server import PromptServer

from .stock_nodes import is_registered

#: What follows the name of an input whose value was put aside, so that the node can say so.
ASIDE = " (as sent)"

_NUMBERS = {"INT": int, "FLOAT": float}


def accept_any_value(classes: dict[str, type], kinds: dict[str, dict[str, str]]) -> None:
    """From now on a value of another type refuses no prompt. ``kinds``: class → input → its type. A pack that was
    loaded later may have taken an id over: its nodes are left alone."""

    def on_prompt(data: dict[str, Any]) -> dict[str, Any]:
        for node in _nodes(data):
            kind = node.get("class_type")
            if kind in kinds and is_registered(kind, classes[kind]) and isinstance(node.get("inputs"), dict):
                put_aside(node["inputs"], kinds[kind], data["prompt"])
        return data

    if kinds and hasattr(PromptServer.instance, "add_on_prompt_handler"):
        PromptServer.instance.add_on_prompt_handler(on_prompt)


def put_aside(inputs: dict[str, Any], kinds: dict[str, str], prompt: dict[str, Any]) -> None:
    """Takes values out of ``inputs`` that are neither a link nor of the type that ComfyUI makes of them."""
    for name, kind in kinds.items():
        if name in inputs and not _fits(inputs[name], kind, prompt):
            inputs[name + ASIDE] = {"__value__": inputs.pop(name)}


def _nodes(data: Any) -> list[dict[str, Any]]:
    prompt = data.get("prompt") if isinstance(data, dict) else None
    return [node for node in prompt.values() if isinstance(node, dict)] if isinstance(prompt, dict) else []


def _fits(value: Any, kind: str, prompt: dict[str, Any]) -> bool:
    if isinstance(value, list):
        return len(value) == 2 and isinstance(value[0], str) and value[0] in prompt
    if kind == "BOOLEAN":
        return isinstance(value, bool | int | None)
    if kind not in _NUMBERS:
        return True
    try:
        _NUMBERS[kind](value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
