"""Every family that ComfyUI knows, through the inductor backend with Inductor itself left out: all blocks are compiled,
once a kind, and no change of sizes compiles anything again."""

from __future__ import annotations

import importlib

import pytest
import torch
from onediff_pack.compilers import Host, Session, Settings
from onediff_pack.processors.attach import attach
from onediff_pack.status import Record
from passthrough import without_inductor

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
families = importlib.import_module("families")
Call = families.Call

pytestmark = pytest.mark.usefixtures("host")

TOLERANCE = 1e-4

FIRST = Call(height=16, width=16, batch=2, tokens=77)

CHANGES = {
    "wider": Call(height=16, width=24),
    "larger": Call(height=32, width=24),
    "longer prompt": Call(tokens=231),
    "batch 4": Call(batch=4),
    "back": FIRST,
}

#: Blocks that stay uncompiled: family, start of the path, and words of the reason in the record.
EXPECTED_UNCOMPILED = {
    "OmniGen 2": {"ref_image_refiner.": "did not call it"},  # there is no reference picture
}


@pytest.fixture
def inductor():
    with without_inductor() as passthrough:
        yield passthrough


def relative(compiled, uncompiled):
    return ((compiled - uncompiled).norm() / uncompiled.norm()).item()


@pytest.mark.parametrize("name", list(families.FAMILIES))
def test_each_kind_of_block_is_compiled_once(name, inductor):
    family = families.FAMILIES[name]()
    patcher = family.patcher()
    clone, record = patcher.clone(), Record("workflow", "7")
    settings = Settings(backend="inductor", keep_faster=False)
    session = Session(settings, record, Host(lambda: None, KeyboardInterrupt, "test"), torch.device("cpu"))
    attach(clone, session)

    def sample(call, steps):
        runs = inductor.runs
        uncompiled = family.step(patcher, call)
        assert uncompiled.isfinite().all()
        assert uncompiled.std() > 0
        results = session.sampling(lambda: [family.step(clone, call) for _ in range(steps)])
        assert inductor.runs > runs
        assert max(relative(result, uncompiled) for result in results) <= TOLERANCE

    sample(FIRST, steps=3)
    compiled = record["compile"]
    expected = EXPECTED_UNCOMPILED.get(name, {})
    uncompiled = compiled["regions_uncompiled"]
    assert compiled["regions"] == len(session.runners) > 0
    assert compiled["regions_compiled"] + len(uncompiled) == compiled["regions"]
    unexpected = [
        r
        for r in uncompiled
        if not any(r["path"].startswith(p) and words in r["reason"] for p, words in expected.items())
    ]
    assert unexpected == []
    assert bool(uncompiled) == bool(expected)
    assert compiled["graph_breaks"] == []
    assert record["parity"]["passed"]
    kinds = {runner.region.signature for runner in session.runners if runner.parity is not None}
    assert (inductor.graphs, compiled["recompiles"]) == (len(kinds), [])
    assert compiled["graphs"] == len(kinds)

    for change, call in CHANGES.items():
        sample(call, steps=2)
        assert (change, inductor.graphs, record["compile"]["recompiles"]) == (change, len(kinds), [])
    assert record["compile"]["regions_uncompiled"] == uncompiled


#: UNets, a video one, and the ways in which DiTs pass text, modulation and rotary tables.
WITH_BATCH_1 = ("SD 1.5", "SDXL", "SVD", "SD 3", "Flux", "Flux 2", "Lumina 2", "Qwen-Image", "Wan 2.1", "LTXV")


@pytest.mark.parametrize("name", WITH_BATCH_1)
def test_batch_1_costs_each_kind_at_most_one_more_graph_and_once(name, inductor):
    """CFG off, on, four pictures at once, and back: PyTorch compiles a batch of 1 apart."""
    family = families.FAMILIES[name]()
    patcher = family.patcher()
    clone, record = patcher.clone(), Record("workflow", "7")
    settings = Settings(backend="inductor", keep_faster=False)
    session = Session(settings, record, Host(lambda: None, KeyboardInterrupt, "test"), torch.device("cpu"))
    attach(clone, session)
    counted, recompiles = [], []
    for call in (Call(batch=1), Call(batch=2), Call(batch=4), Call(batch=1), Call(batch=4, height=32), Call(batch=1)):
        results = session.sampling(lambda call=call: [family.step(clone, call) for _ in range(2 + (not counted))])
        assert max(relative(result, family.step(patcher, call)) for result in results) <= TOLERANCE
        counted.append(inductor.graphs)
        recompiles.append(len(record["compile"]["recompiles"]))
    kinds = len({runner.region.signature for runner in session.runners if runner.parity is not None})
    assert kinds <= counted[0] <= counted[1] <= 2 * kinds
    assert counted[1:] == [counted[1]] * 5
    assert recompiles == [graphs - kinds for graphs in counted]
    if name != "SVD":  # there one video is a batch of its frames, and Dynamo says so in its own words
        assert {again["reason"] for again in record["compile"]["recompiles"]} <= {"batch 1 needs a graph of its own"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [("SD 1.5", {"time_embed", "out"}), ("Flux", {"time_in", "vector_in", "final_layer"})],
)
def test_scope_model_compiles_the_parts_around_the_blocks_too(name, parts, inductor):
    family = families.FAMILIES[name]()
    patcher = family.patcher()
    clone, record = patcher.clone(), Record("workflow", "7")
    settings = Settings(backend="inductor", scope="model", keep_faster=False)
    session = Session(settings, record, Host(lambda: None, KeyboardInterrupt, "test"), torch.device("cpu"))
    attach(clone, session)
    for call in (FIRST, *CHANGES.values()):
        results = session.sampling(lambda call=call: [family.step(clone, call) for _ in range(3)])
        assert max(relative(result, family.step(patcher, call)) for result in results) <= TOLERANCE
    compiled = record["compile"]
    assert parts <= {runner.region.path for runner in session.runners if runner.parity}
    assert (compiled["regions_uncompiled"], compiled["graph_breaks"], compiled["recompiles"]) == ([], [], [])
    assert inductor.graphs == len({runner.region.signature for runner in session.runners})


def test_every_reason_names_a_family():
    assert EXPECTED_UNCOMPILED.keys() <= families.FAMILIES.keys()
