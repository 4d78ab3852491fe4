"""The ``nexfort`` backend: OneDiff's own, proven like the others."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from importlib import metadata

import torch
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from torch import nn

from ..checks.graph.breaks import first_line
from ..status.machine import package_version
from .cache import WARM
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
    packages = ("nexfort", "onediff")

    def absent(self, device: torch.device) -> str | None:
        if package_version(self.package) is None:
            return "nexfort is not installed, and needs a build of torch of its own and an NVIDIA GPU: use inductor."
        return self._mismatch() or missing_onediff()

    def _mismatch(self) -> str | None:
        wanted = wanted_torch(metadata.requires(self.package) or [])
        if wanted is not None and not wanted.contains(torch.__version__, prereleases=True):
            version = package_version(self.package)
            return f"nexfort {version} needs torch {wanted}, and this is torch {torch.__version__}: use inductor."
        if not torch.cuda.is_available():
            return "nexfort needs an NVIDIA GPU, and torch sees none here: use inductor."
        return None

    def emulates_casts(self, device: str) -> bool:
        return False

    def load(self) -> None:
        try:
            importlib.import_module("nexfort")
        except Exception as error:
            raise BackendUnavailable(self.name, _why(error)) from error

    def start_up(self, device: torch.device) -> None:
        self.load()
        importlib.import_module("torch._dynamo")  # seconds that are not the trial's

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        self.load()
        # Its Inductor keeps libraries where torch's does.
        return standin(
            block, graph, lambda module: compile_through_onediff(module, self.name, None), around=WARM.in_private
        )

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
        return f"nexfort's installation lacks a part, the module {error.name}: reinstall nexfort or use inductor."
    built_for = re.search(r"torch version\(torch==([^)]+)\)", str(error))
    if built_for:
        return f"nexfort was built for torch {built_for[1]}, and this is torch {torch.__version__}: use inductor."
    return f"nexfort cannot be imported ({type(error).__name__}: {first_line(error)}): use inductor."


def wanted_torch(requirements: list[str]) -> SpecifierSet | None:
    """The versions of torch that a distribution requires, None when any will do."""
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name == "torch" and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            return requirement.specifier or None
    return None
