"""What the pack knows of Inductor before it is asked for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import nn

from ....processors.kernels import any_batch
from ...blocks.shared_graph import SharedGraph
from ...compile_cache import WARM
from ..dynamic_sizes import takes_any_batch
from ..protocol import Backend, Failure
from ..through_onediff import compile_through_onediff, missing_onediff
from .effort import effort_note, inductor_config
from .failures import explain
from .tools import missing_tools
from .vector_instructions import find_vector_instructions


class InductorBackend(Backend):
    """torch.compile."""

    name = "inductor"
    package = "torch"
    packages = ("onediff",)
    devices = ("cuda", "cpu", "xpu", "mps")
    native = False
    uses_triton = True
    holds_operators = True
    holds_code_alone = True

    def absent(self, device: torch.device) -> str | None:
        return missing_onediff() or missing_tools(device.type)

    def load(self) -> None:
        importlib.import_module(f"{__package__}.registered")  # registers itself
        importlib.import_module("torch._inductor.compile_fx")

    def start_up(self, device: torch.device) -> None:
        self.load()
        if device.type == "cpu":
            find_vector_instructions()  # tries out the C++ compiler

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        self.load()
        if self.takes_any_batch(graph.device):
            any_batch.register()
        config = inductor_config(effort, graph.device)
        if graph.emulates_casts:
            config["emulate_precision_casts"] = True
        options = {"graph": graph, "config": config}
        return compile_through_onediff(block, self.name, options)

    def explain(self, error: Exception) -> Failure:
        return explain(error)

    def takes_any_batch(self, device: str) -> bool:
        return device == "cpu" and takes_any_batch()  # not run on a GPU, where Inductor would count in 64 bits

    def leaves_libraries(self, device: str) -> bool:
        return device == "cpu"  # without max_autotune, see effort.py

    def emulates_casts(self, device: str) -> bool:
        return device != "cpu"  # where Inductor's C++ leaves such casts out (torch 2.11)

    def about(self, effort: str, device: str) -> str | None:
        return effort_note(effort, device)

    def notes_on_kept(self) -> list[str]:
        return list(WARM.notes)
