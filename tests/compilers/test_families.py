"""Families that ComfyUI knows, through the inductor backend with Inductor itself left out: all blocks are compiled,
once a kind, and no change of sizes, LoRA or checkpoint compiles anything again. Each family with ``test.py --all``."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import sessions
import torch
from onediff_pack.patching.wrappers import APPLY_MODEL, KEY
from passthrough import without_inductor

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
families = importlib.import_module("families")
Call = families.Call

pytestmark = pytest.mark.usefixtures("host")

TOLERANCE = 1e-4

ALL = 1e12  # bytes of weights on the device: more than any of the models has

FIRST = Call(height=16, width=16, batch=2, tokens=77)

CHANGES = {
    "wider": Call(height=16, width=24),
    "larger": Call(height=32, width=24),
    "longer prompt": Call(tokens=231),
    "batch 4": Call(batch=4),
    "back": FIRST,
}

#: Blocks that the model does not call, by family: start of the path.
NOT_CALLED = {"OmniGen 2": "ref_image_refiner."}  # there is no reference picture


#: Kinds that another checkpoint compiles anew, because the model makes their classes anew each time.
ANEW_FOR_CHECKPOINTS = {"Stable Cascade": 4}

#: Where a batch of 1 is compiled apart: it is not known which inputs carry the batch, frames are in it too, or torch
#: cannot do without its size (a mask of its own for each picture, for one).
APART = {
    "SVD",
    "Qwen-Image",
    "LTXV",
    "Cosmos",
    "HiDream",
    "PixArt alpha",
    "PixArt sigma",
    "Hunyuan DiT",
    "OmniGen 2",
    "ERNIE-Image",
    "Ideogram 4",
}


@pytest.fixture
def inductor():
    with without_inductor() as passthrough:
        yield passthrough


def relative(compiled, uncompiled):
    return ((compiled - uncompiled).norm() / uncompiled.norm()).item()


def checkpoint(family, seed):
    """A checkpoint of the family, loaded as ComfyUI does: in inference mode. Dynamo tells such weights apart."""
    with torch.inference_mode():
        patcher = family.patcher(seed)
        patcher.partially_load(torch.device("cpu"), ALL)
    return patcher


def compiled_clone(patcher, **settings):
    clone, session, record = sessions.compiled_clone(patcher, **settings)
    session.measuring.by_turns = False  # no step runs uncompiled to be timed
    return clone, session, record


def with_lora(clone, session, strength):
    """The model with a LoRA on every matrix of its blocks."""
    patched, generator = clone.clone(), torch.Generator().manual_seed(5)
    blocks = tuple(f"diffusion_model.{block.path}." for block in session.blocks)
    weights = {n: w for n, w in patched.model_state_dict().items() if n.startswith(blocks) and w.ndim == 2}
    changes = {n: ("diff", (0.5 * torch.randn(w.shape, generator=generator),)) for n, w in weights.items()}
    assert len(patched.add_patches(changes, strength)) == len(changes) > 0
    return patched


def compiles():
    """Dynamo's own count of the graphs that it captured."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


#: One of each way in which models are built and called; the others with ``scripts/test.py --all``.
ORDINARY = (
    "SD 1.5",
    "SVD",
    "SD 3",
    "Flux",
    "Flux 2",
    "Lumina 2",
    "Qwen-Image",
    "Wan 2.1",
    "LTXV",
    "Z-Image",
    "Hunyuan DiT",
    "CogVideoX",
)


def some(names, ordinary):
    return [pytest.param(name, marks=() if name in ordinary else pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", some(families.FAMILIES, ORDINARY))
def test_each_kind_of_block_is_compiled_once(name, inductor):
    family = families.FAMILIES[name]()
    patcher = checkpoint(family, seed=0)
    clone, session, record = compiled_clone(patcher)

    def sample(call, steps, clone=clone, session=session):
        runs = inductor.runs
        plain = clone.clone()
        plain.remove_wrappers_with_key(APPLY_MODEL, KEY)
        uncompiled = family.step(plain, call)
        assert uncompiled.isfinite().all()
        assert uncompiled.std() > 0
        results = session.sampling(lambda: [family.step(clone, call) for _ in range(steps)])
        assert inductor.runs > runs
        assert max(relative(result, uncompiled) for result in results) <= TOLERANCE
        return uncompiled

    plain = sample(FIRST, steps=3)
    compiled = record["compile"]
    idle = compiled["regions_not_called"]
    assert bool(idle) == (name in NOT_CALLED)
    assert all(path.startswith(NOT_CALLED[name]) for path in idle)
    assert compiled["regions_compiled"] == compiled["regions"] == len(session.blocks) - len(idle) > 0
    assert compiled["regions_uncompiled"] == []
    assert compiled["graph_breaks"] == []
    assert record["parity"]["passed"]
    kinds = {block.signature for block in session.blocks if block.parity is not None}
    assert (inductor.graphs, compiled["recompiles"]) == (len(kinds), [])
    assert compiled["graphs"] == len(kinds)

    captured = compiles()
    for change, call in CHANGES.items():
        sample(call, steps=2)
        assert (change, inductor.graphs, record["compile"]["recompiles"]) == (change, len(kinds), [])
    assert record["compile"]["regions_uncompiled"] == []

    for strength in (1.0, -0.5):
        lora = with_lora(clone, session, strength)
        with torch.inference_mode():
            lora.partially_load(torch.device("cpu"), ALL)
        assert relative(sample(FIRST, 2, lora), plain) > TOLERANCE
        with torch.inference_mode():
            lora.detach()
            clone.partially_load(torch.device("cpu"), ALL)
    other, its_session, its_record = compiled_clone(checkpoint(family, seed=1))
    sample(FIRST, 4, other, its_session)
    torch.testing.assert_close(sample(FIRST, 2), plain)
    anew = ANEW_FOR_CHECKPOINTS.get(name, 0)
    assert (inductor.graphs, compiles()) == (len(kinds) + anew, captured + anew)
    assert (record["compile"]["recompiles"], its_record["compile"]["recompiles"]) == ([], [])

    for batch in (1, 4, 2, 1):
        sample(replace(FIRST, batch=batch), steps=3)
    more = len(kinds) if name in APART else 0
    assert inductor.graphs <= len(kinds) + anew + more
    assert len(record["compile"]["recompiles"]) == inductor.graphs - len(kinds) - anew, "each is in the record"


#: UNets, a video one, and the ways in which DiTs pass text, modulation and rotary tables.
WITH_BATCH_1 = ("SD 1.5", "SDXL", "SVD", "SD 3", "Flux", "Flux 2", "Lumina 2", "Qwen-Image", "Wan 2.1", "LTXV")


@pytest.mark.parametrize("name", some(WITH_BATCH_1, ("SD 1.5", "Flux", "Lumina 2", "Wan 2.1")))
def test_one_graph_a_kind_holds_for_every_batch_also_when_the_first_is_1(name, inductor):
    """CFG off, on, four pictures at once, and back."""
    family = families.FAMILIES[name]()
    patcher = family.patcher()
    clone, session, record = compiled_clone(patcher)
    counted, recompiles = [], []
    for call in (Call(batch=1), Call(batch=2), Call(batch=4), Call(batch=1), Call(batch=4, height=32), Call(batch=1)):
        results = session.sampling(lambda call=call: [family.step(clone, call) for _ in range(2 + (not counted))])
        assert max(relative(result, family.step(patcher, call)) for result in results) <= TOLERANCE
        counted.append(inductor.graphs)
        recompiles.append(len(record["compile"]["recompiles"]))
    kinds = len({block.signature for block in session.blocks if block.parity is not None})
    if name not in APART:
        assert (counted, recompiles) == ([kinds] * 6, [0] * 6)
        assert "apart" not in record["backend"]["reason"]
        return
    assert kinds <= counted[0] <= counted[1] <= 2 * kinds
    assert counted[1:] == [counted[1]] * 5
    assert recompiles == [graphs - kinds for graphs in counted]
    said = record["backend"]["reason"].partition("Compiled apart for a batch of 1: ")[2]
    assert bool(said) is (name != "Qwen-Image"), "there it was not tried: its inputs do not carry one batch"


@pytest.mark.parametrize(
    ("name", "parts"),
    [("SD 1.5", {"time_embed", "out"}), ("Flux", {"time_in", "vector_in", "final_layer"})],
)
def test_scope_model_compiles_the_parts_around_the_blocks_too(name, parts, inductor):
    family = families.FAMILIES[name]()
    patcher = family.patcher()
    clone, session, record = compiled_clone(patcher, scope="model")
    for call in (FIRST, *CHANGES.values()):
        results = session.sampling(lambda call=call: [family.step(clone, call) for _ in range(3)])
        assert max(relative(result, family.step(patcher, call)) for result in results) <= TOLERANCE
    compiled = record["compile"]
    assert parts <= {block.path for block in session.blocks if block.parity}
    assert (compiled["regions_uncompiled"], compiled["graph_breaks"], compiled["recompiles"]) == ([], [], [])
    assert inductor.graphs == len({block.signature for block in session.blocks})


def test_every_exception_names_a_family():
    assert {*NOT_CALLED, *ANEW_FOR_CHECKPOINTS, *APART, *ORDINARY, *WITH_BATCH_1} <= {*families.FAMILIES}
