"""Where code is, without this machine's folders."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from torch import nn

from ..memo import cached
from ..parsing import parse
from ..processors.sources.user_files import USER_FOLDER


def short_path(path: str) -> str:
    """The end of a path that a reader can find again: from custom_nodes, site-packages or comfy on, or from the folder
    around attention_processors; else two parts."""
    parts = Path(path).parts
    if USER_FOLDER in parts[1:]:
        return "/".join(parts[parts.index(USER_FOLDER) - 1 :])
    for anchor in ("custom_nodes", "site-packages", "comfy", "comfy_extras"):
        if anchor in parts:
            at = len(parts) - 1 - parts[::-1].index(anchor)
            return "/".join(parts[at + 1 if anchor == "site-packages" else at :])
    return "/".join(parts[-2:])


@cached
def class_location(cls: type[nn.Module]) -> str:
    """The "file:line" of a class; its module's name where there is no source."""
    try:
        file = inspect.getsourcefile(cls)
        line = inspect.getsourcelines(cls)[1]
    except Exception:  # there is no source, or it was saved while it is read
        return str(cls.__module__)
    return f"{short_path(file)}:{line}" if file else str(cls.__module__)


def function_location(function: Callable) -> str | None:
    """The "file:line" of a function's ``def``; None where there is no source."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return None if code is None else f"{short_path(code.co_filename)}:{code.co_firstlineno}"


def tensor_location(module: nn.Module, name: str) -> str | None:
    """The "file:line" where the owner of a parameter or buffer creates it; None where that cannot be seen."""
    owner_path, _, own = name.rpartition(".")
    return _assignment(type(module.get_submodule(owner_path)), own)


@cached
def _assignment(cls: type[nn.Module], name: str) -> str | None:
    """Where ``__init__`` says ``self.name = …`` or ``register_…("name", …)``."""
    for base in cls.__mro__:
        init = base.__dict__.get("__init__")
        if base is nn.Module or init is None:
            continue
        try:
            lines, first = inspect.getsourcelines(init)
        except Exception:
            continue
        for number, line in enumerate(lines):
            if re.search(rf"self\.{re.escape(name)}\b[^=]*=[^=]|register_\w+\(\s*[\"']{re.escape(name)}[\"']", line):
                return f"{short_path(inspect.getsourcefile(base) or '')}:{first + number}"
    return None


@cached
def called_children(cls: type[nn.Module]) -> frozenset[str]:
    """Names of attributes that a class calls itself: ``self.proj(x)`` gives "proj", ``self.qkv.proj(x)`` gives nothing.

    Elements of a list that is looped over count under the list's name: ``for block in self.blocks: block(x)``.
    """
    names: set[str] = set()
    for base in cls.__mro__:
        if base is nn.Module or not issubclass(base, nn.Module):
            continue
        try:
            tree = parse(textwrap.dedent(inspect.getsource(base)))
        except Exception:
            continue
        names |= _called(tree)
    return frozenset(names)


def _called(tree: ast.AST) -> set[str]:
    loops: dict[str, set[str]] = {}
    calls: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.comprehension):
            sources = _self_attributes(node.iter)
            for target in ast.walk(node.target):
                if isinstance(target, ast.Name):
                    loops.setdefault(target.id, set()).update(sources)
        elif isinstance(node, ast.Call):
            calls.append(node.func)
    names: set[str] = set()
    for function in calls:
        if isinstance(function, ast.Subscript):
            function = function.value
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "self":
            names.add(function.attr)
        elif isinstance(function, ast.Name):
            names |= loops.get(function.id, set())
    return names


def _self_attributes(expression: ast.expr) -> set[str]:
    return {
        node.attr
        for node in ast.walk(expression)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
