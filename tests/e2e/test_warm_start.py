"""Compiled code survives a restart of the real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
from examples import example, run, start

from scripts.environment import Environment

FLAGS = ("--use-pytorch-cross-attention",)
NO_OTHERS = {"OneDiffCompile": {"backend": "inductor", "keep_faster": False}}


def test_after_a_restart_nothing_is_compiled_and_the_picture_is_the_same(environment: Environment, tmp_path: Path):
    cache = tmp_path / "cache"
    cold, first = _one_start(environment, cache)
    warm, second = _one_start(environment, cache)
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

    for entry in cache.glob("*.graph"):  # as a crash or a bad disk would leave them
        entry.write_bytes(entry.read_bytes()[:-100])
    damaged, third = _one_start(environment, cache)
    assert damaged["cache"] == "cold"
    assert any("damaged" in note for note in damaged["cache_notes"])
    assert numpy.array_equal(first, third)


def _one_start(environment: Environment, cache: Path) -> tuple[dict[str, Any], Any]:
    variables = {"ONEDIFF_COMPILE_CACHE": str(cache)}
    with start(environment, "warm_start", flags=FLAGS, variables=variables) as server:
        result = run(server, example("flux", server, steps=3, **NO_OTHERS))
        assert result.error is None
        return result.records["OneDiffCompile"]["compile"], result.pictures[0]
