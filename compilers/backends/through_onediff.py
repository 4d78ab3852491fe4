"""OneDiff's door: every backend is compiled with through ``onediff.infer_compiler.compile``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import nn


def missing_onediff() -> str | None:
    """Why OneDiff cannot be used, None when it can."""
    if find_spec("onediff") is None:
        return "onediff is not installed: run “pip install --no-deps onediff” in ComfyUI's Python and restart ComfyUI."
    try:
        importlib.import_module("onediff.infer_compiler")
    except Exception as error:  # a broken installation may raise anything
        remedy = "run “pip install --no-deps --force-reinstall onediff”"
        return f"onediff cannot be imported ({type(error).__name__}: {error}): {remedy}."
    return None


def compile_through_onediff(block: nn.Module, backend: str, options: dict[str, Any] | None) -> Callable:
    """``onediff.infer_compiler.compile`` with a backend that is OneDiff's own or was registered before."""
    from onediff.infer_compiler import compile as compile_module

    return compile_module(block, backend=backend, options=options)
