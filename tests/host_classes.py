"""Which classes a file of ComfyUI makes: what it calls, and what it names in a string for a function that makes it."""

from __future__ import annotations

import ast
import importlib
import inspect
from types import ModuleType
from typing import Any

from torch import nn


def made_by(module: ModuleType, within: object = None, kinds: tuple[type, ...] = (nn.Module,)) -> set[type]:
    """The classes of these kinds that the code of ``within``, or of the whole module, makes."""
    found: set[type] = set()
    for node in ast.walk(ast.parse(inspect.getsource(within or module))):  # type: ignore[arg-type]
        made: Any = None
        if isinstance(node, ast.Call):
            made = _named(ast.unparse(node.func), module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("comfy."):
            place, _, name = node.value.rpartition(".")
            made = getattr(importlib.import_module(place), name)
        if isinstance(made, type) and issubclass(made, kinds):
            found.add(made)
    return found


def _named(name: str, module: ModuleType) -> Any:
    """What a dotted name means in a module; None for what is no such name, or is known only while it runs."""
    first, *rest = name.split(".")
    found = getattr(module, first, None)
    for part in rest:
        found = getattr(found, part, None)
    return found


def classes_in(built: object) -> set[type]:
    """The class of what was built, and of everything that its models are made of."""
    models = [built, *vars(built).values()]
    inside = {type(module) for model in models if isinstance(model, nn.Module) for module in model.modules()}
    return {type(built), *inside}


def full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
