"""Takes Inductor's place where speed is not the question: runs what Dynamo captured, and counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from onediff_pack.proving.proof import Proof
from sessions import known, using


class Passthrough:
    """Compiles nothing. Dynamo's guards and graphs are the real ones, so what a graph ignores shows in the result.
    ``spoil(gm)`` may change what was captured, and ``ran(gm)``, called at the end of each run, may raise."""

    def __init__(self) -> None:
        self.graphs = 0
        self.runs = 0
        self.spoil: Callable[[torch.fx.GraphModule], None] = lambda gm: None
        self.ran: Callable[[torch.fx.GraphModule], None] = lambda gm: None

    def compile_fx(self, gm: torch.fx.GraphModule, example_inputs: list, **_settings: Any) -> Any:
        self.graphs += 1
        self.spoil(gm)

        def run(*args: Any) -> Any:
            self.runs += 1
            result = gm.forward(*args)
            self.ran(gm)
            return result

        return run


@contextmanager
def without_inductor() -> Iterator[Passthrough]:
    """The inductor backend with Inductor itself left out."""
    from torch._inductor import compile_fx

    passthrough = Passthrough()
    proofs = known(inductor=Proof(True, "stands in.", 0.0))
    dynamo = torch._dynamo.config.patch(run_gc_after_compile=False)
    with pytest.MonkeyPatch.context() as patch, dynamo, one_thread(), using(proofs):
        patch.setattr(logging.getLogger("torch.__trace"), "handlers", [])  # pytest would keep every line of it
        patch.setattr(compile_fx, "compile_fx", passthrough.compile_fx)
        yield passthrough


@contextmanager
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
