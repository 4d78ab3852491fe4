"""What a processor's source says: calls with their full names, writes to attributes and globals, caught errors.

Reading finds what may never run, and tensors are not told from other values. So this is half of the evidence; rules
report only what a real run has executed.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from typing import Any

from ...memo import cached
from ...parsing import parse
from ...patching.inside import modules_in
from ..mounted import Mounted
from .reader import Reader, function_of
from .spots import Code


def code(mounted: Mounted) -> Code:
    """Evidence: the source of everything that ``forward`` reaches in the user's files."""
    found = Code()
    done: set[types.CodeType] = set()
    waiting: list[tuple[types.FunctionType, Any]] = []
    for _, module in modules_in(mounted.module):
        if not type(module).__module__.startswith(("torch.", "comfy.")):
            waiting.append((function_of(type(module).forward), module))
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        waiting += [(function_of(hook), None) for hook in hooks]
    home = {_package(function) for function, _ in waiting if function is not None}
    while waiting:
        function, owner = waiting.pop()
        if function is None or function.__code__ in done:
            continue
        done.add(function.__code__)
        if getattr(function, "_torchdynamo_disable", False) or _package(function) not in home:
            continue
        tree = _tree(function.__code__)
        if tree is not None:
            reader = Reader(function, owner, found)
            reader.read(tree)
            waiting += reader.reached
    return found


def _package(function: Any) -> str:
    """The file for code of a loose module, the outermost package for an installed one."""
    module = getattr(function, "__module__", None) or ""
    return module.partition(".")[0]


@cached
def _tree(code: types.CodeType) -> ast.AST | None:
    """The syntax tree of a function's code with its file's line numbers."""
    try:
        lines, first = inspect.getsourcelines(code)
        tree = parse(textwrap.dedent("".join(lines)))
    except Exception:  # there is no source, or it was saved while it is read
        return None
    return ast.increment_lineno(tree, max(first, 1) - 1)
