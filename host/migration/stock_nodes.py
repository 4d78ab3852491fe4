"""ComfyUI's own nodes, files and samplers, for old nodes that stand for them."""

from __future__ import annotations

import importlib
from typing import Any

import comfy.samplers
import folder_paths


def is_taken(node: str) -> bool:
    """Whether a pack that was loaded earlier has registered this id."""
    return node in importlib.import_module("nodes").NODE_CLASS_MAPPINGS  # ComfyUI's, not this package


def is_registered(node: str, cls: type) -> bool:
    """Whether this class is the one that an id stands for."""
    return importlib.import_module("nodes").NODE_CLASS_MAPPINGS.get(node) is cls


def stock(node: str, **inputs: Any) -> tuple:
    """What one of ComfyUI's nodes gives for these inputs."""
    cls = importlib.import_module("nodes").NODE_CLASS_MAPPINGS[node]
    result = getattr(cls(), cls.FUNCTION)(**inputs)
    return tuple(result if isinstance(result, tuple) else result.result)


def files(folder: str) -> list[str]:
    return list(folder_paths.get_filename_list(folder))


def find_file(folder: str, name: Any) -> str | None:
    """The file of this name, also where the workflow comes from a system with the other slash; None without one."""
    names = files(folder)
    if name in names:
        return str(name)
    plain = str(name).replace("\\", "/")
    return next((found for found in names if found.replace("\\", "/") == plain), None)


def samplers() -> list[str]:
    return list(comfy.samplers.KSampler.SAMPLERS)


def schedulers() -> list[str]:
    return list(comfy.samplers.KSampler.SCHEDULERS)
