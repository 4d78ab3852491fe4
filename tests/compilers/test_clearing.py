"""Clearing measurements and graphs takes effect at the next sampling, and not before."""

from __future__ import annotations

import pytest
import torch
from onediff_pack.compilers import BACKENDS, CLEARED, WARM, Host, Place, Session, Settings, backends
from onediff_pack.compilers.cache.folder import prepare
from onediff_pack.compilers.cache.store import Entry, Store
from onediff_pack.processors.attach import attach
from onediff_pack.status import Record

pytestmark = pytest.mark.usefixtures("host")


class Backend:
    """Runs blocks as they are and notes what it was asked to compile; ``broken`` makes them raise."""

    name = "counting"
    package = "torch"

    def __init__(self):
        self.compiled: list[str] = []
        self.broken = False

    def absent(self, device):
        return None

    def emulates_casts(self, device):
        return False

    def compile(self, block, graph, effort):
        self.compiled.append(type(block).__name__)
        graph.graphs = 1

        def run(*args, **kwargs):
            if self.broken:
                raise RuntimeError("a broken entry")
            return graph.forward(block, *args, **kwargs)

        return run

    def explain(self, error):
        return str(error), None

    def about(self, effort, device):
        return None


@pytest.fixture
def backend(monkeypatch):
    counting = Backend()
    monkeypatch.setattr(backends, "BACKENDS", {"counting": counting, **BACKENDS})
    monkeypatch.setattr(backends, "_proofs", {("counting", "cpu"): backends.Proof(True, "counts.", 0.0)})
    return counting


@pytest.fixture
def patcher():
    import models

    return models.flux_patcher()


def compiled_clone(patcher):
    record, clone = Record("workflow", "7"), patcher.clone()
    host = Host(lambda: None, "test")
    session = Session(Settings("counting", keep_faster=False), record, host, torch.device("cpu"))
    attach(clone, session)
    return clone, session, record


def sample(session, clone, steps):
    from models import step

    session.sampling(lambda: [step(clone) for _ in range(steps)])


@pytest.fixture(autouse=True)
def nothing_cleared(monkeypatch):
    for name in ("measurements", "graphs"):
        monkeypatch.setattr(CLEARED, name, getattr(CLEARED, name))


def graphs_of(session: Session) -> set[str]:
    return {graph.name for runner in session.runners for graph in runner.graphs.values()}


def test_cleared_measurements_are_taken_anew_with_the_same_graphs(patcher, backend):
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, steps=10)
    assert session.settled
    compiled, graphs = len(backend.compiled), graphs_of(session)
    CLEARED.clear_measurements()
    assert record["speed"]["eager_ms"] > 0
    sample(session, clone, steps=1)
    assert not session.settled
    assert (record["speed"]["compiled_ms"], len(record["speed"]["steps_ms"])) == (None, 1)
    sample(session, clone, steps=8)
    assert record["speed"]["compiled_ms"] > 0
    assert len(backend.compiled) == compiled
    assert graphs_of(session) == graphs


def test_a_shape_that_was_slower_gets_another_chance(patcher, backend):
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, steps=8)
    session.measuring.slow.add(session.shape)
    sample(session, clone, steps=1)
    assert record["state"] == "uncompiled"
    CLEARED.clear_measurements()
    sample(session, clone, steps=8)
    assert record["state"] == "compiled"


def test_cleared_graphs_are_compiled_anew_and_a_running_sampling_keeps_its_own(patcher, backend):
    from models import step

    clone, session, _record = compiled_clone(patcher)
    sample(session, clone, steps=8)
    before, compiled = graphs_of(session), len(backend.compiled)

    def clears_in_the_middle():
        step(clone)
        CLEARED.clear_graphs()
        return [step(clone), step(clone)]

    session.sampling(clears_in_the_middle)
    assert graphs_of(session) == before
    assert len(backend.compiled) == compiled
    sample(session, clone, steps=3)
    assert graphs_of(session).isdisjoint(before)
    assert len(backend.compiled) == 2 * compiled
    assert session.memory.graphs == {graph for runner in session.runners for graph in runner.graphs.values()}


def test_what_failed_is_tried_again_after_the_graphs_were_cleared(patcher, backend):
    backend.broken = True
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, steps=3)
    assert record["state"] == "uncompiled"
    backend.broken = False
    sample(session, clone, steps=3)
    assert record["state"] == "uncompiled"
    CLEARED.clear_graphs()
    sample(session, clone, steps=8)
    assert record["state"] == "compiled"


def test_what_is_kept_on_disk_is_deleted_with_the_graphs(tmp_path, monkeypatch):
    monkeypatch.setattr(WARM, "place", lambda: Place(tmp_path / "cache"))
    Store(prepare(tmp_path / "cache"), 10**6).write("1" * 64, Entry({"a": b"b"}, 1.0))
    CLEARED.clear_measurements()
    assert list((tmp_path / "cache").glob("*.graph"))
    CLEARED.clear_graphs()
    assert not list((tmp_path / "cache").glob("*.graph"))
