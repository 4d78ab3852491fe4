"""Compiled code survives a restart of the real server, until it is cleared."""

from __future__ import annotations

import json
import statistics
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from examples import SDPA, example, run, start

from scripts.environment import Environment
from scripts.server import Server

FLAGS = ("--use-pytorch-cross-attention",)
NO_OTHERS: dict[str, dict[str, Any]] = {
    "OneDiffCompile": {"backend": "inductor", "keep_faster": False},
    "OneDiffPatchAttention": SDPA,
}


def test_after_a_restart_nothing_is_compiled_and_the_picture_is_the_same(
    environment: Environment, tmp_path: Path, record_property: Callable[[str, object], None]
):
    cache = tmp_path / "cache"
    cold, first, trips = _one_start(environment, cache)
    warm, second, _ = _one_start(environment, cache)
    facts = {"cold": cold, "warm": warm, "median trip": statistics.median(trips), "longest trip": max(trips)}
    record_property("warm start", json.dumps(facts))
    assert cold["cache"] == "cold"
    assert cold["cache_hits"] == 0
    assert cold["cache_misses"] == cold["graphs"] > 0
    assert cold["cache_notes"] == []
    assert warm["cache"] == "warm"
    assert (warm["cache_hits"], warm["cache_misses"]) == (cold["graphs"], 0)
    assert warm["cache_notes"] == []
    assert warm["seconds"] <= cold["seconds"] / 3
    assert warm["seconds_saved"] > cold["seconds"] / 2
    assert warm["regions_compiled"] == cold["regions_compiled"] == warm["regions"]
    assert numpy.array_equal(first, second)
    assert statistics.median(trips) < 0.5, "the server answered slowly while it compiled"


@pytest.mark.long
def test_a_damaged_entry_is_compiled_anew_and_clearing_lets_the_next_picture_compile_all(
    environment: Environment, tmp_path: Path
):
    """That no damaged entry is used: tests/compilers/test_cache_store.py."""
    cache = tmp_path / "cache"
    cold, first, _ = _one_start(environment, cache)
    entry = next(one for one in (cache / "onediff_compile_cache").glob("*.graph") if _holds_a_graph(one))
    entry.write_bytes(entry.read_bytes()[:-100])  # as a crash or a bad disk would leave it
    cleared: dict[str, Any] = {}

    def clear(server: Server) -> None:
        answer = server.post_json("/onediff/clear", {"what": "compile cache"})["cleared"]
        assert "compiles again" in answer
        other_seed = {"KSampler": {"seed": 9, "steps": 3}}
        again = run(server, example("flux", server, 3, **NO_OTHERS, **other_seed))
        cleared.update(again.records["OneDiffCompile"]["compile"])

    damaged, third, _ = _one_start(environment, cache, clear)
    assert (damaged["cache_hits"], damaged["cache_misses"]) == (cold["graphs"] - 1, 1)
    assert any("damaged" in note for note in damaged["cache_notes"])
    assert numpy.array_equal(first, third)
    assert (cleared["cache"], cleared["cache_hits"]) == ("cold", 0)
    assert cleared["cache_misses"] == cleared["graphs"] == cold["graphs"]
    assert cleared["seconds"] > 0


def _holds_a_graph(entry: Path) -> bool:
    """Rather than a header, or what Inductor built to try the processor: those are kept beside the graphs."""
    with zipfile.ZipFile(entry) as files:
        return any(name.startswith("files/fxgraph/") for name in files.namelist())


def _one_start(
    environment: Environment, cache: Path, then: Callable[[Server], None] = lambda server: None
) -> tuple[dict[str, Any], Any, list[float]]:
    """The record's compile field, the picture, and seconds that the server took to answer meanwhile."""
    variables = {"ONEDIFF_COMPILE_CACHE": str(cache)}
    with start(environment, "warm_start", flags=FLAGS, variables=variables) as server:
        workflow, trips, done = example("flux", server, steps=3, **NO_OTHERS), [], threading.Event()

        def ask() -> None:
            while not done.wait(0.2):
                start_ = time.perf_counter()
                server.get("/system_stats", timeout=120)
                trips.append(time.perf_counter() - start_)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            result = run(server, workflow)
        finally:
            done.set()
            asking.join()
        assert result.error is None
        then(server)
        return result.records["OneDiffCompile"]["compile"], result.pictures[0], trips
