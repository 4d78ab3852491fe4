"""A short soak, and what longer ones found: after random changes every picture is what ComfyUI without the pack makes.

The long one is benchmarks/soak.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.soaking.servers import Expected, soaked
from benchmarks.soaking.sharing import killed_while_compiling
from benchmarks.soaking.soaking import Soak, wrong
from benchmarks.soaking.workflow import FAMILIES, Change, Workflow
from scripts.environment import Environment

#: Families and changes after which a picture was wrong, or a prompt failed, as benchmarks/soak.py prints them.
HELD: list[tuple[str, list[Change]]] = []


@pytest.mark.long
@pytest.mark.parametrize("seed", [1000, 1001])
@pytest.mark.parametrize("family", ["sd15", "flux", "wan"])
def test_every_picture_is_right_after_random_changes(environment: Environment, tmp_path: Path, family: str, seed: int):
    lines: list[dict[str, Any]] = []
    with Soak(environment, FAMILIES[family], tmp_path / "soak.jsonl") as soak:
        assert soak.seed(seed, 25, 0, lines.append) == []
    assert len(lines) == 26
    assert max(line["moved"] or 0 for line in lines) > 5, "no change shows in a picture, so equality proves nothing"
    assert "compiled" in [line["states"].get("compile") for line in lines] or seed % 2 == 0


@pytest.mark.long
@pytest.mark.parametrize("family, steps", HELD)
def test_what_a_soak_found_stays_mended(environment: Environment, family: str, steps: list[Change]):
    found = FAMILIES[family]
    with Expected(environment, family, [found]) as expected, soaked(environment, family, [found]) as server:
        assert wrong(server, expected, found, steps, Workflow()) is None


@pytest.mark.long
def test_a_server_that_is_killed_while_it_compiles_harms_neither_the_cache_nor_another_server(environment: Environment):
    found = killed_while_compiling(environment, FAMILIES["flux"], moment=1.5)
    for server in ("living", "again"):
        assert not found[server]["failed"], found
        assert found[server]["cache_notes"] == [], found
    assert found["living_goes_on"] is None
    assert found["again"]["cache_misses"] == 0, "it reads what the other one kept"
    assert found["left_s"] is not None, "its compile workers end too"
