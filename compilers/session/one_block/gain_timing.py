"""What a block's class gains from compiling, told from one block around its first compiled run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch

from ....patching.calls import Inputs
from ....processors.choosing.running import trials
from ...blocks.operators.promises import HOSTS_ROLE
from ...blocks.shared_graph import SharedGraph
from ...measuring.block import Block
from ...measuring.class_gain import time_pairs
from ...measuring.library_time import most_saved
from ..compiler import Compiler
from ..step import Step
from .call import Call
from .foreign_code import ForeignCode


@contextmanager
def weighed(block: Block) -> Iterator[None]:
    """Notes how much of a step a block takes, from an uncompiled run, without what patches try in it."""
    start, tried = time.perf_counter(), _tried()
    yield
    block.weight = block.calls * ((time.perf_counter() - start) * 1e3 - (_tried() - tried))


def _tried() -> float:
    return sum(trial.spent for trial in trials())


class Runner(Protocol):
    """The block's runner, as far as this needs it."""

    block: Block
    device: torch.device

    def run_left(self, inputs: Inputs) -> Any:
        """Runs it as a block that is left for no gain."""

    def run_compiled(self, key: tuple, graph: SharedGraph, inputs: Inputs) -> Any:
        """Runs a variant."""

    def is_timed(self) -> bool:
        """Whether it is to be learned from this block what its class gains."""


class GainTiming:
    """Of one block."""

    def __init__(self, runner: Runner, compiler: Compiler, foreign: ForeignCode):
        self._runner, self._compiler, self._foreign = runner, compiler, foreign

    def waits(self, step: Step, graph: SharedGraph) -> bool:
        """Whether the block is compiled in a later step, because another kind comes first."""
        block, gain = self._runner.block, self._runner.block.gain
        block.postponed = not graph.graphs and (
            gain.waits(block.signature, step.number)
            or (step.goes_on and gain.is_told_later(block.signature, step.number))
        )
        step.dirty |= block.postponed
        return block.postponed

    def begun(self, graph: SharedGraph) -> None:
        """The library of the block's graph is built beside, from now on or since an earlier sampling."""
        if self._runner.is_timed():
            self._runner.block.gain.begun = graph

    def failed(self, graph: SharedGraph) -> None:
        """The graph tells nothing of the class."""
        if self._runner.block.gain.begun is graph:
            self._runner.block.gain.begun = None

    def cannot_gain(self, step: Step, call: Call) -> bool:
        """Whether an uncompiled run shows, before anything is compiled, that the class would gain too little."""
        gain = self._runner.block.gain
        if self._compiler.leaves_libraries and self._is_timed(call):
            step.dirty = True
            try:
                gain.note_most(most_saved(self._runner.run_left, call.original))
            except Exception:  # there may be no memory for it
                return False
        return gain.reason is not None

    def time(self, key: tuple, graph: SharedGraph, call: Call) -> None:
        """Times the block both ways, if its class is still to be told from it."""
        if not self._is_timed(call):
            return
        gain, runner, under = self._runner.block.gain, self._runner, call.under

        def compiled(own: Inputs) -> Any:
            with self._foreign.anew(under).running() if under is not None else nullcontext():
                return runner.run_compiled(key, graph, own)

        def uncompiled(own: Inputs) -> Any:
            return runner.run_left(own if under is None else self._foreign.with_options_of(under, own))

        until = (gain.most_pairs, gain.seconds, gain.tell)
        try:
            with self._compiler.timed():
                pairs = time_pairs(compiled, uncompiled, call.inputs, runner.device, *until)
        except Exception:  # there may be no memory for it
            gain.give_up_timing()
        else:
            gain.note(runner.block.signature, pairs)

    def _is_timed(self, call: Call) -> bool:
        """Code of other nodes is not run once more for it."""
        return self._runner.is_timed() and all(role == HOSTS_ROLE for role in call.foreign.roles)
