"""What a session's blocks are compiled with, and what that costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from ...checks.reaching.batches import Batched, Form
from ...patching.user_code import Attendance, Cancel
from ..backends.errors_in_words import in_words, is_out_of_memory
from ..backends.protocol import Backend, Failure
from ..blocks.batches import Batches
from ..blocks.parity import Parity
from ..blocks.shared_graph import GRAPHS, Counts, GraphCache, SharedGraph
from ..choice.choose import choose_backend
from ..choice.prove import PROOFS, Proofs
from ..measuring.block import Block
from ..measuring.cleared import CLEARED
from .settings import COMPILE_SECONDS_VARIABLE, Settings
from .step import Step


class Compiler:
    """The backend of one session and the graphs that its blocks use.

    ``baseline`` holds what each graph had cost before. ``spent`` are seconds of compiling and timing blocks in this
    sampling; ``waiting`` says that some blocks wait for the next one. Graphs in ``imprecise`` were not right within the
    tolerance: their blocks use the same one with casts emulated.
    """

    def __init__(
        self,
        settings: Settings,
        device: torch.device,
        proofs: Proofs = PROOFS,
        graphs: GraphCache = GRAPHS,
        cancel: Cancel | None = None,
    ):
        self.backend: Backend | None = None
        self.baseline: dict[SharedGraph, Counts] = {}
        self.why = ""
        self.spent = 0.0
        self.waiting = False
        self.imprecise: set[SharedGraph] = set()
        self.batches = Batches()
        self._settings = settings
        self._device = device
        self._proofs = proofs
        self._graphs = graphs
        self._cancel = cancel or Cancel()
        self._cleared = CLEARED.marks.graphs
        self._since: float | None = None
        self._begun: set[SharedGraph] = set()  # graphs that are built beside

    def choose_backend(self) -> str:
        """Chooses the backend and returns why that one.

        Raises:
            BackendUnavailable: when none works here.
        """
        attendance = Attendance(self._cancel, math.inf)
        ask = partial(choose_backend, self._settings.backend, self._device, self._proofs, attendance.inside())
        self.backend, self.why = attendance.watched(ask)
        return self.why

    def forget(self) -> None:
        """Lets go of all graphs; the next ones are other ones."""
        self.baseline.clear()
        self.imprecise.clear()
        self._begun.clear()
        self._cleared = CLEARED.marks.graphs

    def begin_sampling(self) -> None:
        self._since = None
        self.spent, self.waiting = 0.0, False

    def end_sampling(self, graphs: Iterable[SharedGraph], broke_off: bool = False) -> None:
        """The graphs of the model that was sampled outlive it for a while, also when it was kept uncompiled: it may be
        another checkpoint's turn. What is built beside ends with a sampling that ``broke_off``: it begins anew when it
        is needed."""
        self._graphs.used(graphs, self._cleared)
        for library in [graph.library for graph in self._begun if broke_off]:
            if library is not None and library.at_work:
                library.end()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts the time of a block's first compiled run, or of runs that are timed, into ``spent``."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.spent += time.monotonic() - start

    @contextmanager
    def cancelled_meanwhile(self, graph: SharedGraph) -> Iterator[Attendance]:
        """For a block's first compiled run. Cancel is told once: whoever ends a compiler's process, and whoever ends
        tracing, ask the same one."""
        attendance = Attendance(self._cancel, math.inf)

        graph.cancel = attendance.inside()
        try:
            yield attendance
        finally:
            graph.cancel = self._cancel

    @contextmanager
    def beside(self, graph: SharedGraph, step: Step) -> Iterator[None]:
        """For a block's first compiled run: what is built beside is not waited for where the step goes on."""
        graph.waits = not step.goes_on
        try:
            yield
        finally:
            graph.waits = True
            if graph.library is not None:
                self._begun.add(graph)

    def is_built(self, graph: SharedGraph, step: Step) -> bool:
        """Whether a graph's first run need not wait: its library is there, and none is built beside, which would
        disturb what is timed. Where the step does not go on uncompiled, it waits inside that run."""
        if graph.library is None or not step.goes_on:
            return True
        graph.library.go_on()
        return graph.library.ready and not self.builds_beside

    @property
    def builds_beside(self) -> bool:
        """Whether a compiler is at work beside."""
        return any(graph.library is not None and graph.library.at_work for graph in self._begun)

    def postponed(self, graph: SharedGraph) -> str | None:
        """Why a graph is not compiled in this sampling, None when it may be, or is already."""
        if graph.graphs or self.spent < self._settings.budget:
            return None
        self.waiting = True
        return (
            f"{round(self.spent)} s of compiling is the limit for one picture: it is compiled in the next."
            if self._settings.budget
            else f"{COMPILE_SECONDS_VARIABLE} is 0: nothing new is compiled."
        )

    def retry(self, graph: SharedGraph, parity: Parity) -> bool:
        """Whether the blocks of a graph that was not right are compiled once more: with casts emulated, because
        Inductor leaves out the rounding to float16 or bfloat16 between operations that it fuses; or batches apart."""
        can = self.backend is not None and self.backend.emulates_casts(self._device.type) and not graph.emulates_casts
        if not can or parity.dtype not in (torch.float16, torch.bfloat16):
            return self.compile_apart(graph, parity.difference)
        self.imprecise.add(graph)
        return True

    def compile_apart(self, graph: SharedGraph, error: Exception | str) -> bool:
        """Whether the blocks of a graph that was to hold for every batch, and failed, are compiled once more, each
        batch apart."""
        if graph.batch is None or (isinstance(error, Exception) and is_out_of_memory(error)):
            return False
        graph.batch = None
        graph.apart = error if isinstance(error, str) else self.explain(error).reason
        return True

    def batch_of(self, path: str, form: Form) -> Batched | None:
        """Which of a block's tensors carry the batch, called in this form; None where nobody knows."""
        return self.batches.of(path, form)

    @property
    def takes_any_batch(self) -> bool:
        """Whether one graph can hold for every batch."""
        return self.backend is not None and self.backend.takes_any_batch(self._device.type)

    @property
    def leaves_libraries(self) -> bool:
        """Whether what libraries compute takes as long in a graph as outside."""
        return self.backend is not None and self.backend.leaves_libraries(self._device.type)

    @property
    def holds_operators(self) -> bool:
        """Whether foreign code may run inside its graphs."""
        return self.backend is not None and self.backend.holds_operators

    @property
    def holds_code_alone(self) -> bool:
        """Whether its graphs hold no tensor."""
        return self.backend is not None and self.backend.holds_code_alone

    @property
    def budget(self) -> float:
        """Seconds of compiling in one sampling."""
        return self._settings.budget

    @property
    def notes(self) -> list[str]:
        """What people should know of how blocks were compiled."""
        about = self.backend.about(self._settings.effort, self._device.type) if self.backend else None
        kinds = sorted({graph.label for graph in self.imprecise})
        emulated = (
            f"With precision casts emulated, because they differed without: {', '.join(kinds)}." if kinds else None
        )
        apart = sorted({f"{graph.label}: {graph.apart}" for graph in self.baseline if graph.apart})
        each = f"Compiled apart for a batch of 1: {' '.join(apart)}" if apart else None
        return [note for note in (about, emulated, each) if note]

    @property
    def way(self) -> tuple[str | None, str, str]:
        """Backend, effort and type of device."""
        return (self.backend.name if self.backend else None, self._settings.effort, self._device.type)

    def graph_of(self, key: tuple, forward: Callable, label: str) -> SharedGraph:
        """The shared graph of a block's variant for this backend."""
        graph = self._graphs.get((*self.way, self._cleared, *key), forward, label)
        graph.device, graph.cancel = self._device.type, self._cancel
        self.baseline.setdefault(graph, graph.counts())
        return graph

    def compile(self, module: nn.Module, graph: SharedGraph) -> Callable:
        """Asks OneDiff for the compiled module of a block."""
        assert self.backend is not None
        return self.backend.compile(module, graph, self._settings.effort)

    def explain(self, error: Exception) -> Failure:
        """A failure in words."""
        try:
            return self.backend.explain(error) if self.backend is not None else in_words(error)
        except BaseException:  # a person's exception may raise when it is looked at
            return Failure("it raised an error that cannot be read.")

    def progress(self, block: Block, blocks: Sequence[Block]) -> dict[str, Any]:
        """The record's ``progress`` before a block is compiled."""
        self._since = self._since or time.monotonic()
        return {
            "done": sum(not one.pending for one in blocks),
            "total": len(blocks),
            "path": block.path,
            "seconds": round(time.monotonic() - self._since, 1),
        }
