"""The ``nexfort`` backend: OneDiff's own, proven like the others."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from importlib import metadata

import torch
from torch import nn

from ..status.machine import package_version
from .exceptions import BackendUnavailable
from .explain import causes, explain
from .graphs import SharedGraph
from .standin import standin
from .through_onediff import compile_through_onediff, missing_onediff


class NexfortBackend:
    """OneDiff's nexfort backend."""

    name = "nexfort"
    package = "nexfort"
    native = True
    can_emulate_casts = False
    packages = ("nexfort", "onediff")

    def absent(self) -> str | None:
        if package_version(self.package) is None:
            return "nexfort is not installed. It needs its own build of torch and an NVIDIA GPU; use inductor."
        return self._mismatch() or missing_onediff()

    def _mismatch(self) -> str | None:
        wanted = wanted_torch(metadata.requires(self.package) or [])
        if wanted not in (None, torch.__version__, torch.__version__.partition("+")[0]):
            return f"nexfort {package_version(self.package)} needs torch {wanted}, and this is {torch.__version__}."
        if not torch.cuda.is_available():
            return "nexfort needs an NVIDIA GPU, and torch sees none here."
        return None

    def load(self) -> None:
        try:
            importlib.import_module("nexfort")
        except Exception as error:
            raise BackendUnavailable(self.name, _why(error)) from error

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        self.load()
        return standin(block, graph, lambda module: compile_through_onediff(module, self.name, None))

    def about(self, effort: str, device: str) -> str | None:
        return None

    def explain(self, error: Exception) -> tuple[str, dict[str, str] | None]:
        for cause in causes(error):
            if isinstance(cause, BackendUnavailable):
                return cause.reason, None
            if isinstance(cause, ModuleNotFoundError):
                return _why(cause), None
        return explain(error)


def _why(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"nexfort's installation lacks a part: there is no module {error.name}."
    return f"nexfort cannot be imported ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})."


def wanted_torch(requirements: list[str]) -> str | None:
    """The exact torch that a distribution requires, None when it requires none or several will do."""
    for requirement in requirements:
        found = re.match(r"torch\s*\(?==\s*([^\s;,)]+)", requirement)
        if found:
            return found[1]
    return None
