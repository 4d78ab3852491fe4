"""Sessions on models, with backends that stand in for real ones where compiling is not the question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from onediff_pack.compilers import BACKENDS, Host, Session, Settings
from onediff_pack.compilers.backends.protocol import Backend, Failure
from onediff_pack.compilers.blocks.shared_graph import GraphCache, SharedGraph
from onediff_pack.compilers.choice.prove import Proofs
from onediff_pack.compilers.measuring.gains import Gains
from onediff_pack.patching.wrappers import attach
from onediff_pack.proving.proof import Proof
from onediff_pack.status import Record

CPU = torch.device("cpu")


class FakeBackend(Backend):
    """Runs a block as it is, and notes what was compiled and what ran. ``change(name, result)`` may spoil a result or
    raise."""

    name, package, packages, devices, native = "counting", "torch", (), ("cpu",), False

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.ran: list[str] = []
        self.emulated = False
        self.change: Callable[[str, Any], Any] = lambda name, result: result

    def absent(self, device: torch.device) -> str | None:
        return None

    def load(self) -> None:
        return None

    def compile(self, block: torch.nn.Module, graph: SharedGraph, effort: str) -> Callable:
        name = type(block).__name__
        self.compiled.append(name)

        def run(*args: Any, **kwargs: Any) -> Any:
            self.ran.append(name)
            self.emulated = graph.emulates_casts
            result = self.change(name, graph.forward(block, *args, **kwargs))
            graph.graphs = graph.graphs or 1
            return result

        return run

    def explain(self, error: Exception) -> Failure:
        return Failure(f"{type(error).__name__}: {error}")


def known(*backends: Backend, **proofs: Proof) -> Proofs:
    """Proofs of this pack's backends and others. The others work; ``proofs`` are what is known of those of the pack."""
    working = {(backend.name, "cpu"): Proof(True, "stands in.", 0.0) for backend in backends}
    others = {(name, "cpu"): proof for name, proof in proofs.items()}
    return Proofs({**{backend.name: backend for backend in backends}, **BACKENDS}, known={**others, **working})


_in_use: list[tuple[Proofs, GraphCache, Gains]] = []


@contextmanager
def using(proofs: Proofs) -> Iterator[GraphCache]:
    """Sessions that are made meanwhile know these proofs, and share graphs and what they gain with each other alone."""
    graphs = GraphCache()
    _in_use.append((proofs, graphs, Gains()))
    yield graphs
    _in_use.pop()


def compiled_clone(
    patcher: Any,
    check_interrupt: Callable[[], None] = lambda: None,
    resolve_weights: Any = None,
    told: list[dict[str, Any]] | None = None,
    prompt: Callable[[], Any] = lambda: None,
    opaque_attention: Callable | None = None,
    plans: bool = False,
    **settings: Any,
) -> tuple[Any, Session, Record]:
    """A clone of a ModelPatcher with a session on it, as OneDiff Compile attaches one: clone, session and record.
    ``told`` collects what pages are told, if it is given; ``opaque_attention`` is what no graph can hold of ComfyUI.
    With ``plans``, and ``keep_faster``, nothing is compiled that would not pay; without, as in a speed report, classes
    of many kinds alone are left: what stands in for a compiler gains nothing."""
    proofs, graphs, gains = _in_use[-1]
    backend = next(iter(proofs.backends))
    chosen = Settings(**{"backend": backend, "keep_faster": False, **settings})
    record = Record("workflow", "7", None if told is None else lambda record: told.append(dict(record.data)))
    clone = patcher.clone()
    host = Host(
        check_interrupt,
        "test",
        resolve_weights,
        prompt=prompt,
        computes_with_sdpa=lambda: opaque_attention is None,
        opaque_attention=lambda: opaque_attention,
    )
    find = None
    if hasattr(patcher.model, "extra_conds"):
        from onediff_pack.host.example_inputs import find_batched

        find = find_batched(clone)
    session = Session(chosen, record, host, CPU, find_batched=find, proofs=proofs, graphs=graphs, gains=gains)
    session.plans = plans and session.plans
    attach(clone, session)
    return clone, session, record
