"""One compiled graph, shared by all blocks of a class, and the counts that the record shows."""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Protocol

from ...checks.reaching.batches import Batched, Form
from ...patching.user_code import Cancel

_numbers = itertools.count()


@dataclass(frozen=True)
class Counts:
    """What a graph has cost, or several have: seconds of compiling, compiles after the first, those that the cache on
    disk had and had not, and the seconds that it saved."""

    seconds: float = 0.0
    recompiles: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    seconds_saved: float = 0.0

    @property
    def compiles(self) -> int:
        """Compiles that the cache was asked for."""
        return self.cache_hits + self.cache_misses

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Unfinished(Exception):
    """A graph was to run whose library is still being built, and nobody wants to wait for it now."""


class Library(Protocol):
    """Machine code that a compiler builds beside the thread that samples."""

    @property
    def at_work(self) -> bool:
        """Whether the compiler runs, or is about to."""

    @property
    def ready(self) -> bool:
        """Whether nobody would have to wait for it."""

    def end(self) -> None:
        """Ends the compiler. It begins anew when the library is needed."""

    def go_on(self) -> None:
        """Begins anew where it was ended."""


@dataclass(eq=False)
class SharedGraph:
    """What the blocks of one class, one set of weight shapes and one variant of options have in common.

    ``forward`` is the unbound function that is compiled. Backends fill the counts: ``graphs`` compiled, ``reasons``
    of each compile after the first, ``cache_hits`` and ``cache_misses`` of the cache on disk and the
    ``seconds_saved`` by it, ``runs`` of compiled code where a backend counts them, and the ``size`` of the last one
    compiled where it holds for one size. ``unkept`` are compiles that are kept on disk once they ran, ``sizes`` what
    torch knew of sizes while it traced them. ``device`` is the type that it is compiled for. ``batch`` tells which of a
    block's tensors carry the batch, by the form in which it is called, where the graph is to hold for every one;
    ``apart`` why it cannot, so that they are compiled apart. With ``emulates_casts`` a backend rounds to float16 or
    bfloat16 wherever uncompiled code does. ``is_code_alone``: it holds no tensor, and no processor that a person wrote,
    so that it may outlive its models. ``cancel`` ends compiling it. ``library`` is what is still built for it: where
    ``waits`` is False, a backend may leave that to a process beside, and the graph raises Unfinished until it has
    ended.
    """

    forward: Callable
    label: str
    graphs: int = 0
    seconds: float = 0.0
    cache_hits: int = 0
    cache_misses: int = 0
    seconds_saved: float = 0.0
    runs: int = 0
    size: str = ""
    batch: dict[Form, Batched | None] | None = None
    apart: str = ""
    reasons: list[str] = field(default_factory=list)
    unkept: list[Any] = field(default_factory=list)
    sizes: list[Any] = field(default_factory=list)
    runner: Callable[..., Any] | None = None
    emulates_casts: bool = False
    device: str = "cpu"
    cancel: Cancel = field(default_factory=Cancel)
    waits: bool = True
    is_code_alone: bool = False
    library: Library | None = None

    def __post_init__(self) -> None:
        #: Name of the compiled function, unique in this process.
        self.name = f"onediff_{re.sub(r'[^0-9A-Za-z]+', '_', self.label)}_{next(_numbers)}"

    def forget_compile(self) -> None:
        """Takes back what was counted of a compile that came to nothing, but for its seconds."""
        self.library = None
        self.graphs -= 1
        self.cache_misses -= 1
        self.unkept = self.unkept[:-1]

    def counts(self) -> Counts:
        """What it has cost so far."""
        return Counts(self.seconds, len(self.reasons), self.cache_hits, self.cache_misses, self.seconds_saved)


#: Graphs that are built for models which are gone.
MOST_UNFINISHED = 16

#: Graphs that hold code alone and stay when their models are gone: those of three or four models. Each is about 1 MB.
MOST_KEPT = 32


class GraphCache:
    """Shared graphs by key. A graph goes, and its compiled code with it, when no model holds it any more and a sampling
    that had no use for it has ended. ComfyUI lets go of a checkpoint before it loads the one that takes its place.

    Graphs that hold code alone stay longer, those that were used last: ComfyUI lets go of a workflow's models when
    another workflow runs, and who goes back and forth would have each traced anew for every picture. So does one whose
    library is built beside, until it ran: only then it is kept on disk.
    """

    def __init__(self) -> None:
        self._graphs: weakref.WeakValueDictionary[tuple, SharedGraph] = weakref.WeakValueDictionary()
        self._used_last: set[SharedGraph] = set()
        self._kept: list[SharedGraph] = []
        self._unfinished: list[SharedGraph] = []
        self._cleared = 0

    def get(self, key: tuple, forward: Callable, label: str) -> SharedGraph:
        """The graph of a key, made when there is none."""
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = SharedGraph(forward, label)
        return graph

    def used(self, graphs: Iterable[SharedGraph], cleared: int = 0) -> None:
        """At the end of a sampling: these outlive their model until the next one ends, or until they ran, or until
        enough others were used. What was kept before the user ``cleared`` for the last time goes."""
        if cleared != self._cleared:
            self._kept, self._unfinished = [], []
        self._cleared, used = cleared, set(graphs)
        self._unfinished = _last(MOST_UNFINISHED, self._unfinished, used, lambda graph: graph.library is not None)
        self._kept = _last(MOST_KEPT, self._kept, used, lambda graph: graph.is_code_alone and graph.runner is not None)
        self._used_last = used


def _last(
    most: int, before: Sequence[SharedGraph], used: Collection[SharedGraph], fits: Callable[[SharedGraph], bool]
) -> list[SharedGraph]:
    """The last of those that fit, in the order in which they were used."""
    all_of_them = [graph for graph in before if graph not in used] + list(used)
    return [graph for graph in all_of_them if fits(graph)][-most:]


GRAPHS = GraphCache()
