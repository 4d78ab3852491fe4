"""Families that ComfyUI knows, through the inductor backend with Inductor itself left out: all blocks are compiled,
once a kind, and what is changed in a sitting compiles as much again as `AGAIN` says. Each family with
``test.py --all``."""

from __future__ import annotations

import importlib

import pytest
import sessions
import torch
from onediff_pack.patching.wrappers import APPLY_MODEL, KEY

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
    "back": FIRST,
    "CFG off": Call(batch=1),
    "batch 4": Call(batch=4),
    "CFG on": FIRST,
}

#: Blocks that the model does not call, by family: start of the path.
NOT_CALLED = {"OmniGen 2": "ref_image_refiner."}  # there is no reference picture

#: Compiles in the first picture, one for each kind of block.
FIRST_PICTURE = {
    "SD 1.5": 9,
    "SD 2, v-prediction": 3,
    "SDXL": 3,
    "SDXL refiner": 3,
    "SVD": 4,
    "SD 3": 2,
    "Flux": 2,
    "Flux 2": 2,
    "Chroma": 2,
    "Chroma Radiance": 2,
    "Lumina 2": 2,
    "Z-Image": 2,
    "Qwen-Image": 1,
    "Wan 2.1": 1,
    "Wan 2.1 image to video": 1,
    "Wan 2.1 VACE": 3,
    "Wan 2.2": 1,
    "HunyuanVideo": 3,
    "LTXV": 1,
    "Cosmos": 3,
    "Cosmos Predict 2": 1,
    "HiDream": 2,
    "PixArt alpha": 1,
    "PixArt sigma": 1,
    "AuraFlow": 2,
    "Hunyuan DiT": 3,
    "ACE-Step": 2,
    "CogVideoX": 1,
    "Kandinsky 5": 2,
    "OmniGen 2": 2,
    "ERNIE-Image": 1,
    "Krea 2": 2,
    "JoyImage": 1,
    "Stable Cascade": 5,
    "Ideogram 4": 1,
}

#: Compiles after it, by what was changed. Sizes, longer prompts and LoRAs compile nothing in any family, and what is
#: not named here nothing at all. The reasons are in docs/what-was-run.md.
AGAIN = {
    "SVD": {"CFG off": 3},  # frames are in the batch, and residual blocks divide it by their number
    "Cosmos": {"CFG off": 3},  # the batch is the fourth dimension
    "HiDream": {"CFG off": 2},  # values choose its experts, so no run on fake tensors shows what carries the batch
    "PixArt alpha": {"CFG off": 1},  # the prompts of all pictures are one sequence, divided by the batch
    "PixArt sigma": {"CFG off": 1},
    "Stable Cascade": {"other checkpoint": 4},  # it makes the classes of its blocks anew with each model
}


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


@pytest.mark.parametrize("name", families.some())
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
    assert (inductor.graphs, compiled["graphs"], compiled["recompiles"]) == (FIRST_PICTURE[name], len(kinds), [])

    again: dict[str, int] = {}

    def count(change, run):
        before, captured = inductor.graphs, compiles()
        result = run()
        assert inductor.graphs - before == compiles() - captured, "Dynamo counts the same"
        again[change] = inductor.graphs - before
        return result

    for change, call in CHANGES.items():
        count(change, lambda call=call: sample(call, steps=3))
    assert record["compile"]["regions_uncompiled"] == []

    for change, strength in {"LoRA added": 1.0, "LoRA weaker": -0.5}.items():
        lora = with_lora(clone, session, strength)
        with torch.inference_mode():
            lora.partially_load(torch.device("cpu"), ALL)
        assert relative(count(change, lambda lora=lora: sample(FIRST, 2, lora)), plain) > TOLERANCE
        with torch.inference_mode():
            lora.detach()
            clone.partially_load(torch.device("cpu"), ALL)
    other, its_session, its_record = compiled_clone(checkpoint(family, seed=1))
    count("other checkpoint", lambda: sample(FIRST, 4, other, its_session))
    torch.testing.assert_close(count("LoRA removed", lambda: sample(FIRST, 2)), plain)

    assert {change: number for change, number in again.items() if number} == AGAIN.get(name, {})
    recompiled = sum(again.values()) - again["other checkpoint"]
    assert len(record["compile"]["recompiles"]) == recompiled, "each is in the record"
    assert its_record["compile"]["recompiles"] == []


#: UNets, a video one, and the ways in which DiTs pass text, modulation, masks and rotary tables.
WITH_BATCH_1 = ("SD 1.5", "SDXL", "SVD", "SD 3", "Flux", "Flux 2", "Lumina 2", "Qwen-Image", "Wan 2.1", "LTXV")


@pytest.mark.parametrize("name", families.some(WITH_BATCH_1, ("SD 1.5", "LTXV")))
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
    kinds = FIRST_PICTURE[name]
    said = record["backend"]["reason"].partition("Compiled apart for a batch of 1: ")[2]
    if name not in AGAIN:
        assert (counted, recompiles, said) == ([kinds] * 6, [0] * 6, "")
        return
    assert kinds <= counted[0] <= counted[1] <= 2 * kinds
    assert recompiles == [graphs - kinds for graphs in counted]
    assert said


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


def test_the_table_has_every_family_and_no_other():
    assert FIRST_PICTURE.keys() == families.FAMILIES.keys()
    assert {*NOT_CALLED, *AGAIN, *families.ORDINARY, *WITH_BATCH_1} <= {*families.FAMILIES}
