"""The first compiled run of a block, in steps of each shape: compared with an uncompiled one on the same input. Later
ones are compared again by turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from ....patching.calls import Inputs
from ....patching.user_errors import ordinary
from ...backends.errors_in_words import is_out_of_memory
from ...blocks.operators.block_call import BlockCall, OtherForm
from ...blocks.parity import Parity, clone_inputs, compare, worst
from ...blocks.shared_graph import SharedGraph, Unfinished
from ...blocks.tensors import overlapping, tensors_of
from ..compiler import Compiler
from ..step import Step
from .call import Call
from .foreign_code import ForeignCode
from .gain_timing import GainTiming
from .gain_timing import Runner as GainRunner
from .listener import Listener

Place = tuple[tuple, Sequence[int], tuple[str, int]]
"""Where a run is compared: the variant's key, the foreign functions that write, and the size of the step."""

#: Places of a block that are remembered: in more it is compared again.
MOST_PLACES = 256

#: What is said of a block that is not right any more.
WAS_RIGHT = " It was still right {steps} steps earlier; pictures made since then may be wrong."

#: Why a block that does so runs uncompiled.
WRITES_INTO_VIEWS = "it writes into one of two inputs that are views of the same memory."


class Runner(GainRunner, Protocol):
    """The block's runner, as far as this needs it."""

    def run_uncompiled(self, inputs: Inputs) -> Any:
        """Runs what is on the block now."""


class FirstRuns:
    """Of the variants of one block. ``stops`` are the errors that Cancel raises."""

    def __init__(
        self,
        runner: Runner,
        compiler: Compiler,
        listener: Listener,
        foreign: ForeignCode,
        stops: tuple[type[BaseException], ...],
    ):
        self._runner, self._compiler, self._listener = runner, compiler, listener
        self._foreign, self._stops = foreign, stops
        self._timing = GainTiming(runner, compiler, foreign)
        self._verified: dict[Place, int | None] = {}  # the step in which it was right last; None where nobody looked

    def forget(self) -> None:
        """The next run of each variant is the first one again."""
        self._verified.clear()
        self._runner.block.compared.clear()

    def done(self, step: Step, key: tuple, call: Call) -> bool:
        """Whether this variant need not be compared now."""
        if step.again is self._runner.block and call.under is None:
            return False
        return self._place(step, key, call) in self._verified

    def _place(self, step: Step, key: tuple, call: Call) -> Place:
        return key, self._foreign.writers(call.foreign), step.size

    def run(self, step: Step, key: tuple, graph: SharedGraph, call: Call) -> Any:
        """A compiled run on clones of the inputs, beside the uncompiled run whose result is used."""
        place = self._place(step, key, call)
        if step.again is self._runner.block:
            step.again = None
        if self._timing.waits(step, graph):
            return self._runner.run_uncompiled(call.original)
        if call.under is None and overlapping(call.inputs):
            before = tensors_of(clone_inputs(call.inputs))
            uncompiled = self._runner.run_uncompiled(call.original)
            if not all(map(torch.equal, before, tensors_of(call.inputs))):
                self._listener.gave_up(self._runner.block, WRITES_INTO_VIEWS)
                return uncompiled
        if not self._compiler.is_built(graph, step):
            self._timing.begun(graph)
            return self._meanwhile(step, call)
        if not graph.graphs and self._timing.cannot_gain(step, call):
            return self._runner.run_left(call.original)
        if self._ran(key):
            self._listener.comparing(self._runner.block)
        else:
            self._listener.compiling(self._runner.block)
        if call.under is not None:
            return self._verify_with_foreign(step, place, graph, call, call.under)
        clones = self._clones(place, graph, call)
        if clones is None:
            return self._runner.run_uncompiled(call.original)
        result, failure = self._try_compiled(step, key, graph, clones)
        if isinstance(failure, Unfinished):
            self._timing.begun(graph)
            return self._meanwhile(step, call)
        if failure is not None:
            self._failed(place, graph, failure)
            return self._runner.run_uncompiled(call.original)
        self._foreign.note_written(call.inputs, clones)
        del clones
        uncompiled = self._runner.run_uncompiled(call.original)
        if self._compared(step, place, graph, call, lambda: compare(result, uncompiled)):
            self._timing.time(key, graph, call)
        return uncompiled

    def _verify_with_foreign(self, step: Step, place: Place, graph: SharedGraph, call: Call, under: BlockCall) -> Any:
        """The same, the uncompiled run first: foreign code runs there, and the other is given what that gave."""
        key = place[0]
        clones = self._clones(place, graph, call)
        if clones is None:
            return self._runner.run_uncompiled(call.original)
        uncompiled = self._foreign.first(self._runner.run_uncompiled, call.original, under, call.foreign)
        if under.lost is not None:
            self._listener.failed(self._runner.block, graph, under.lost)
            return uncompiled
        if self._foreign.note_written(clones, call.inputs) and overlapping(call.inputs):
            self._listener.gave_up(self._runner.block, WRITES_INTO_VIEWS)
            return uncompiled
        second = under.again()
        with second.running():
            result, failure = self._try_compiled(step, key, graph, clones)
        if isinstance(failure, OtherForm | Unfinished):
            return uncompiled  # compiled for what was learned just now, at its next call
        if failure is not None:
            self._failed(place, graph, failure)
            return uncompiled
        right = self._compared(
            step,
            place,
            graph,
            call,
            lambda: worst(
                [compare(result, uncompiled), *self._foreign.parity(under, second, clones, call.inputs)],
            ),
        )
        self._foreign.note(under, call.foreign)
        if right:
            self._timing.time(key, graph, call)
        return uncompiled

    def _compared(
        self, step: Step, place: Place, graph: SharedGraph, call: Call, compared: Callable[[], Parity]
    ) -> bool:
        """Compares, and says whether the compiled result is right."""
        block, key = self._runner.block, place[0]
        try:
            parity = compared()
        except Exception as error:
            self._failed(place, graph, error)
            return False
        was_right = self._verified.get(place)
        if not parity.passed and was_right is None and self._compiler.retry(graph, parity):
            return False  # at its next call, compiled in another way
        if not parity.passed and self._foreign.refuse_writers(call.foreign):
            return False
        block.parity = worst([block.parity, parity]) if block.parity and self._ran(key) else parity
        block.compared.add(key[0])
        self._note(place, step.number)
        if not parity.passed:
            since = "" if was_right is None else WAS_RIGHT.format(steps=step.number - was_right)
            self._listener.gave_up(block, parity.difference + since)
        return parity.passed

    def _meanwhile(self, step: Step, call: Call) -> Any:
        """Uncompiled, while a compiler is at work beside. The first compiled run comes later."""
        step.dirty = True
        return self._runner.run_uncompiled(call.original)

    def _ran(self, key: tuple) -> bool:
        """Whether this variant was compared in steps of any shape."""
        return any(known == key for known, _, _ in self._verified)

    def _note(self, place: Place, number: int | None) -> None:
        self._verified[place] = number
        if len(self._verified) > MOST_PLACES:
            del self._verified[next(iter(self._verified))]

    def _failed(self, place: Place, graph: SharedGraph, error: Exception) -> None:
        """A compiled run beside the uncompiled one raised, or comparing the two did. Where only the memory for both was
        missing, a variant that was right in other steps goes on."""
        self._timing.failed(graph)
        if is_out_of_memory(error) and self._ran(place[0]):
            self._note(place, None)
        else:
            self._listener.failed(self._runner.block, graph, error.with_traceback(None))

    def _clones(self, place: Place, graph: SharedGraph, call: Call) -> Inputs | None:
        """Inputs for a run beside the one that counts; None where there is no memory for them."""
        try:
            return clone_inputs(call.inputs)
        except Exception as error:
            self._failed(place, graph, error)
            return None

    def _try_compiled(self, step: Step, key: tuple, graph: SharedGraph, inputs: Inputs) -> tuple[Any, Exception | None]:
        """The result of a compiled run, or what it raised."""
        compiler = self._compiler
        try:
            with compiler.timed(), compiler.beside(graph, step), compiler.cancelled_meanwhile(graph) as attendance:
                return attendance.watched(lambda: self._runner.run_compiled(key, graph, inputs)), None
        except self._stops:
            raise
        except BaseException as error:  # what a processor runs while it is traced may raise anything
            return None, ordinary(
                BaseException.with_traceback(error, None)
            )  # the traceback would keep the failed run's memory
