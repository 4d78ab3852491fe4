"""What the pack knows of OneFlow before it is asked for it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

import torch
from torch import nn

from ...blocks.shared_graph import SharedGraph
from ..errors_in_words import causes, in_words
from ..protocol import Backend, BackendUnavailable, Failure
from ..through_onediff import compile_through_onediff, missing_onediff
from ..whole_module import standin
from . import libraries
from .exceptions import MissingOperator

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class OneFlowBackend(Backend):
    """OneDiff's own backend where OneFlow has what it needs, else this pack's lowering."""

    name = "oneflow"
    package = "oneflow"
    devices = ("cuda", "cpu")
    packages = ("oneflow", "onediff", "numpy", *(name.partition("==")[0] for name in libraries.LIBRARIES))

    def absent(self, device: torch.device) -> str | None:
        return libraries.why_absent() or missing_onediff()

    def load(self) -> None:
        libraries.load_oneflow()

    def start_up(self, device: torch.device) -> None:
        self.load()
        importlib.import_module("torch._dynamo")  # seconds that are not the trial's
        if not libraries.has_onediffs_needs():
            from . import registered  # noqa: F401

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        self.load()
        if libraries.has_onediffs_needs():
            return standin(block, graph, lambda module: compile_through_onediff(module, self.name, None))
        from . import registered  # noqa: F401  (registers itself; needs OneFlow)

        return compile_through_onediff(block, self.name, {"graph": graph})

    def explain(self, error: Exception) -> Failure:
        for cause in causes(error):
            if isinstance(cause, MissingOperator):
                return Failure(_COLOURS.sub("", str(cause)))
            if isinstance(cause, BackendUnavailable):
                return Failure(cause.reason)
        failure = in_words(error)
        return Failure(_COLOURS.sub("", failure.reason), failure.graph_break)
