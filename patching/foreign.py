"""What other nodes have put on a model that acts on attention or around it, in words."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

#: Key in ``transformer_options`` of a function that takes the place of ComfyUI's attention function.
OVERRIDE = "optimized_attention_override"

#: Names of ``transformer_options["patches"]`` that act inside a block, with the words for them.
BLOCK_PATCHES = {
    "attn1_patch": "self-attention input patch",
    "attn2_patch": "cross-attention input patch",
    "attn1_output_patch": "self-attention output patch",
    "attn2_output_patch": "cross-attention output patch",
    "middle_patch": "patch between attentions",
}

#: Attribute of an override that only calls ComfyUI's attention function. Processors take its place.
HOSTS_OWN = "hosts_own"


@functools.lru_cache(maxsize=8)
def hosts_own(attention: Callable) -> Callable:
    """ComfyUI's attention function as an override; what is called is the function that the block asks for."""

    def as_it_is(function: Callable, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    as_it_is.__dict__.update({"func": attention, HOSTS_OWN: True})
    return as_it_is


def origin(function: Any) -> str:
    """Where a function comes from: "module:name", without this machine's folders."""
    function = getattr(function, "func", function)
    target = function if callable(function) and hasattr(function, "__qualname__") else type(function)
    module = (getattr(target, "__module__", None) or "?").replace("\\", "/")
    module = module.split("custom_nodes/")[-1].split("custom_nodes.")[-1]
    return f"{module.rpartition('/')[2]}:{target.__qualname__}"


def is_hosts_node(function: Any) -> bool:
    """Whether one of ComfyUI's own nodes has made a function. ComfyUI loads them under their paths as names."""
    function = getattr(function, "func", function)
    module = str(getattr(function, "__module__", None) or type(function).__module__)
    return "comfy_extras" in re.split(r"[\\/.]", module)


def foreign_patches(options: dict[str, Any]) -> list[dict[str, str]]:
    """Everything in ``transformer_options`` that acts on attention, as ``{"what", "where"}``."""
    found = []
    if OVERRIDE in options:
        found.append({"what": "attention override", "where": origin(options[OVERRIDE])})
    for name, functions in (options.get("patches") or {}).items():
        if name in BLOCK_PATCHES:
            found += [{"what": BLOCK_PATCHES[name], "where": origin(function)} for function in functions]
    for name, replacements in (options.get("patches_replace") or {}).items():
        for block, function in replacements.items():
            found.append({"what": f"replacement of {name} at {_block_name(block)}", "where": origin(function)})
    return found


def counted_patches(options: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """How many patches and replacements are on a model call, by name. Guidance by perturbed attention, or by skipped
    layers, calls the model once more with some of its own."""
    kinds = [options.get(name) or {} for name in ("patches", "patches_replace")]
    return tuple((name, len(found)) for kind in kinds for name, found in kind.items())


def _block_name(block: Any) -> str:
    return " ".join(str(part) for part in block) if isinstance(block, tuple) else str(block)
