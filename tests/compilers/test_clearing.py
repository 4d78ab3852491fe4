"""Clearing measurements and graphs takes effect at the next sampling, and not before."""

from __future__ import annotations

import pytest
from onediff_pack.compilers import CLEARED, WARM, Place, Session
from onediff_pack.compilers.compile_cache.folder import prepare
from onediff_pack.compilers.compile_cache.store import Entry, Store
from onediff_pack.measure import stopwatch as timing
from sessions import compiled_clone

pytestmark = pytest.mark.usefixtures("host")


def broken(name, result):
    raise RuntimeError("a broken entry")


@pytest.fixture
def patcher():
    import models

    return models.flux_patcher()


def sample(session, clone, steps):
    from models import step

    session.sampling(lambda: [step(clone) for _ in range(steps)])


@pytest.fixture(autouse=True)
def nothing_cleared(monkeypatch):
    monkeypatch.setattr(CLEARED, "marks", CLEARED.marks)


def graphs_of(session: Session) -> set[str]:
    return {graph.name for block in session.blocks for graph in block.graphs.values()}


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


def test_a_shape_that_was_slower_gets_another_chance(patcher, backend, monkeypatch):
    clone, session, record = compiled_clone(patcher, keep_faster=True)
    slower = {True: 30.0, False: 20.0}

    def time(self, call, wait):
        result = call()
        return result, slower[session.step.ran_compiled]

    monkeypatch.setattr(timing.Stopwatch, "time", time)
    sample(session, clone, steps=10)
    assert record["state"] == "uncompiled"
    sample(session, clone, steps=10)
    assert record["state"] == "uncompiled"
    CLEARED.clear_measurements()
    slower[True] = 10.0
    sample(session, clone, steps=10)
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
    assert session.memory.graphs == {graph for block in session.blocks for graph in block.graphs.values()}


def test_what_failed_is_tried_again_after_the_graphs_were_cleared(patcher, backend):
    backend.change = broken
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, steps=3)
    assert record["state"] == "uncompiled"
    backend.change = lambda name, result: result
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
