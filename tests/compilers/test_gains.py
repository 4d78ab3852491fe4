"""A class of blocks that gains nothing is not compiled kind by kind to the end."""

from __future__ import annotations

from types import MethodType

import pytest
import torch
from dynamic_vram import DynamicVram
from onediff_pack.compilers import CLEARED
from onediff_pack.compilers.blocks.regions import Region
from onediff_pack.compilers.measuring import class_gain as gains
from onediff_pack.compilers.measuring.block import Block
from onediff_pack.compilers.measuring.class_gain import KINDS_TIMED
from onediff_pack.compilers.measuring.gains import MIN_KINDS_SAVED, Gains
from onediff_pack.compilers.measuring.step_measuring import Measuring
from onediff_pack.compilers.session.failures import Failures, why_uncompiled
from onediff_pack.compilers.session.one_block import gain_timing
from onediff_pack.proving.proof import Proof
from onediff_pack.status import record as status_record
from passthrough import without_inductor
from sessions import compiled_clone, known, using

pytestmark = pytest.mark.usefixtures("host")

KINDS = KINDS_TIMED + MIN_KINDS_SAVED


@pytest.fixture(scope="module")
def inductor():
    with without_inductor() as passthrough:
        yield passthrough


@pytest.fixture
def gain_of(inductor, monkeypatch):
    """Sets how many times as fast compiled blocks run as uncompiled ones, in place of the clock."""
    monkeypatch.setattr(CLEARED, "marks", CLEARED.marks)

    class FixedTimes:
        gain = 1.0

        def __init__(self, device):
            pass

        def time(self, call):
            before = inductor.runs
            result = call()
            return result, 1.0 if inductor.runs > before else self.gain

    def set_to(gain):
        FixedTimes.gain = gain

    monkeypatch.setattr(gains, "Stopwatch", FixedTimes)
    with using(known(inductor=Proof(True, "stands in.", 0.0))):
        yield set_to


def sampled(patcher, steps=3, keep_faster=True, **call):
    """A sampling with a node of its own: the last result and the record."""
    from models import step

    session, clone, record = attached_session(patcher, keep_faster=keep_faster)
    return session.sampling(lambda: [step(clone, **call) for _ in range(steps)])[-1], record


def attached_session(patcher, resolve=None, keep_faster=True, told=None):
    clone, session, record = compiled_clone(patcher, resolve_weights=resolve, keep_faster=keep_faster, told=told)
    return session, clone, record


def blocks_of(kinds):
    """Blocks of one class, each of another width."""
    blocks = [Block(Region(f"blocks.{kind}", torch.nn.Linear(1, 1 + kind))) for kind in range(kinds)]
    for block in blocks:
        block.functions = (torch.nn.Linear.forward,)
    return blocks


def find_gains(blocks, device, gains=None):
    (gains or Gains()).give(blocks, device, "way", None)


def uncompiled(record):
    return {r["reason"] for r in record["compile"]["regions_uncompiled"]}


def test_residual_blocks_that_gain_nothing_are_left_after_two_kinds(inductor, gain_of):
    import models

    gain_of(0.99)
    patcher = models.residual_unet_patcher()
    before = inductor.graphs
    result, record = sampled(patcher)
    torch.testing.assert_close(result, models.step(patcher))
    transformers = 1  # kinds: the widths that have attention
    assert inductor.graphs - before == transformers + KINDS_TIMED
    assert uncompiled(record) == {
        "ResBlock gains too little: 2 of its 12 widths were compiled and ran 0.99× as fast as uncompiled."
    }
    assert record["state"] == "partial"
    assert len(record["compile"]["regions_uncompiled"]) == 22
    assert record["compile"]["regions_compiled"] == 6
    assert record["compile"]["regions_without_gain"] == 22


def test_another_checkpoint_of_the_architecture_and_other_sizes_compile_nothing_new(inductor, gain_of):
    """Also where the clock would say something else by then."""
    import models

    gain_of(0.99)
    first, other = models.residual_unet_patcher(), models.residual_unet_patcher(seed=2)
    sampled(first)
    before = inductor.graphs
    gain_of(2.0)
    for patcher, size in ((other, 16), (first, 24), (first, 16)):
        _, record = sampled(patcher, size=size)
        assert len(record["compile"]["regions_uncompiled"]) == 22
    assert inductor.graphs == before


def test_blocks_that_gain_are_all_compiled(inductor, gain_of):
    import models

    gain_of(1.2)
    before = inductor.graphs
    _, record = sampled(models.residual_unet_patcher())
    assert (record["state"], inductor.graphs - before) == ("compiled", 13)


def test_without_keep_faster_all_are_compiled(inductor, gain_of):
    import models

    gain_of(0.5)
    _, record = sampled(models.residual_unet_patcher(), keep_faster=False)
    assert record["state"] == "compiled"


@pytest.mark.parametrize("gain", [0.99, pytest.param(1.2, marks=pytest.mark.long)])
@pytest.mark.parametrize("runs_anew", [pytest.param(False, marks=pytest.mark.long), True])
def test_cleared_measurements_are_taken_anew(runs_anew, gain, inductor, gain_of):
    """Of the same kinds, by the node that measured them and by one that ComfyUI runs anew."""
    import models

    gain_of(0.99)
    patcher = models.residual_unet_patcher()
    session, clone, record = attached_session(patcher)
    session.sampling(lambda: [models.step(clone) for _ in range(3)])
    assert record["state"] == "partial"
    compiled = inductor.graphs
    gain_of(gain)
    CLEARED.clear_measurements()
    if runs_anew:
        session, clone, record = attached_session(patcher)
    session.sampling(lambda: [models.step(clone) for _ in range(3)])
    if gain < 1:
        assert (record["state"], inductor.graphs) == ("partial", compiled)
    else:
        assert (record["state"], inductor.graphs) == ("compiled", compiled + 10)


def test_what_another_node_put_on_the_other_blocks_is_named_first(inductor, gain_of):
    import models

    gain_of(0.99)
    patcher = models.residual_unet_patcher().clone()
    for module in patcher.model.diffusion_model.modules():
        if type(module).__name__ == "BasicTransformerBlock":
            module.register_forward_hook(lambda module, args, output: output * 1)
    _, record = sampled(patcher)
    assert record["state"] == "uncompiled"
    assert "another node put" in record["summary"]
    assert record["compile"]["regions_without_gain"] == 22


@pytest.mark.parametrize(("weight", "said"), [(1.0, "no gain: nothing was compiled. Linear"), (9.0, "it does not fit")])
def test_what_no_graph_can_hold_is_the_reason_only_where_it_is_most_of_a_step(weight, said):
    """In a VAE under ComfyUI's split attention it is one block of fifteen."""
    blocks = blocks_of(3)
    for block in blocks:
        block.weight, block.gain.reason = 2.0, "Linear gains too little."
    blocks[1].weight, blocks[1].reason = weight, "it does not fit into one graph."
    found = why_uncompiled(Failures(), Measuring(torch.device("cpu"), True), blocks)
    assert found is not None and found.startswith(said)


def test_the_progress_counts_blocks_that_are_left(inductor, gain_of, monkeypatch):
    import models

    gain_of(0.99)
    monkeypatch.setattr(status_record, "MIN_INTERVAL", 0)
    told = []
    session, clone, _record = attached_session(models.residual_unet_patcher(), told=told)
    session.sampling(lambda: [models.step(clone) for _ in range(3)])
    seen = [data["progress"] for data in told if data["state"] == "compiling"]
    done = [at["done"] for at in seen]
    assert done == sorted(done)
    assert {at["total"] for at in seen} == {28}
    assert done[-1] == 27


def test_a_partly_loaded_model_decides_nothing(inductor, gain_of):
    """There both ways take as long as moving the weights."""
    import models
    from onediff_pack.host.weights import resolve_weights

    gain_of(0.99)
    with torch.inference_mode():
        patcher = models.residual_unet_patcher()
        patcher.partially_load(torch.device("cpu"), patcher.model_size() / 2)
    session, clone, record = attached_session(patcher, resolve_weights)
    blocks = [m for m in patcher.model.diffusion_model.modules() if type(m).__name__ == "ResBlock"]
    layers = [layer for block in blocks for layer in block.modules() if hasattr(layer, "weight_function")]
    for layer in layers:  # all of them, so that no block is fully loaded
        layer.prev_comfy_cast_weights, layer.comfy_cast_weights = False, True
        layer.weight_function = [lambda weight: weight]
    session.sampling(lambda: [models.step(clone) for _ in range(3)])
    assert (record["state"], record["compile"]["regions_without_gain"]) == ("compiled", 0)


def test_blocks_that_are_left_do_not_go_comfyuis_way_to_each_weight_in_dynamic_vram(inductor, gain_of, monkeypatch):
    """It takes Python longer than a fast GPU takes for the layer."""
    import comfy.ops
    import models
    from onediff_pack.host.weights import resolve_weights

    gain_of(0.99)
    patcher = models.residual_unet_patcher()
    plain = models.step(patcher)
    blocks = [m for m in patcher.model.diffusion_model.modules() if type(m).__name__ == "ResBlock"]
    layers = [m for block in blocks for m in block.modules() if hasattr(m, "comfy_cast_weights")]
    vram = DynamicVram(monkeypatch)
    for layer in layers:
        vram.put(layer, layer.weight.data)
    session, clone, record = attached_session(patcher, resolve_weights)
    session.sampling(lambda: [models.step(clone) for _ in range(3)])
    assert record["compile"]["regions_without_gain"] == 22

    asked, in_compiled_steps = [], []
    cast = comfy.ops.cast_bias_weight
    monkeypatch.setattr(
        comfy.ops,
        "cast_bias_weight",
        lambda layer, *args, **options: asked.append(layer) or cast(layer, *args, **options),
    )

    def steps():
        for _ in range(4):
            asked.clear()
            torch.testing.assert_close(models.step(clone), plain)
            if session.step_was_compiled:
                in_compiled_steps.append(len(asked))

    session.sampling(steps)
    assert record["state"] == "partial"
    assert in_compiled_steps
    assert not any(in_compiled_steps)
    assert (vram.pinned, vram.brought) == ([], [])
    assert all(layer._v in vram.signatures for layer in layers), "and have their marks back"


def test_a_left_block_whose_weights_cannot_be_brought_at_once_runs_comfyuis_way(inductor, gain_of, monkeypatch):
    """For want of memory, perhaps: ComfyUI brings one layer's weights after the other's."""
    import models
    from onediff_pack.host.weights import resolve_weights

    gain_of(0.99)
    patcher = models.residual_unet_patcher()
    plain = models.step(patcher)
    vram, full, refused = DynamicVram(monkeypatch), [], []
    for block in patcher.model.diffusion_model.modules():
        if type(block).__name__ == "ResBlock":
            for layer in block.modules():
                if hasattr(layer, "comfy_cast_weights"):
                    vram.put(layer, layer.weight.data)

    def resolve(layers, device, dtype):
        if full:
            refused.append(layers)
            raise torch.OutOfMemoryError("no room")
        return resolve_weights(layers, device, dtype)

    session, clone, record = attached_session(patcher, resolve)
    session.sampling(lambda: [models.step(clone) for _ in range(3)])
    assert record["compile"]["regions_without_gain"] == 22
    full.append(True)
    for result in session.sampling(lambda: [models.step(clone) for _ in range(3)]):
        torch.testing.assert_close(result, plain)
    assert refused


@pytest.mark.parametrize(("device", "asks"), [("mps", False), ("cuda", True), ("cpu", True)])
def test_classes_are_left_where_it_was_measured(device, asks):
    blocks = blocks_of(KINDS)
    find_gains(blocks, device)
    assert [block.gain.asks(block.signature) for block in blocks] == [asks] * KINDS


def test_a_block_with_another_nodes_code_in_it_is_called_no_more_often_than_needed(inductor, gain_of):
    """Such code may count its calls. The comparison takes one more, timing would take ten. Nor is it left for what was
    measured without it."""
    import models

    def through(layer, x, *args):
        return type(layer).forward(layer, x, *args)

    gain_of(0.99)
    patcher = models.residual_unet_patcher()
    blocks = [m for m in patcher.model.diffusion_model.modules() if type(m).__name__ == "ResBlock"]
    for block in blocks:
        block.out_layers.forward = MethodType(through, block.out_layers)
    before = inductor.runs
    _, record = sampled(patcher, steps=2)
    assert record["compile"]["regions_compiled"] == record["compile"]["regions"]
    assert inductor.runs - before == record["compile"]["regions"]

    plain = models.residual_unet_patcher(seed=2)
    assert sampled(plain)[1]["state"] == "partial"
    _, record = sampled(patcher, steps=2)
    assert record["compile"]["regions_without_gain"] == 0


def test_a_class_of_few_kinds_is_not_timed():

    few, many = blocks_of(KINDS - 1), blocks_of(KINDS)
    unfit = Block(Region("unfit", torch.nn.Linear(2, 2)), reason="it has no forward")
    find_gains([*few, unfit], "cpu")
    assert not any(block.gain.asks(block.signature) for block in [*few, unfit])
    find_gains(many, "cpu")
    assert all(block.gain.asks(block.signature) for block in many)
    assert len({id(block.gain) for block in many}) == 1


def test_what_was_decided_does_not_outlive_clearing_where_a_class_has_lost_a_kind(monkeypatch):
    """A block that failed meanwhile may leave too few kinds for deciding anew."""
    monkeypatch.setattr(CLEARED, "marks", CLEARED.marks)
    blocks, gains = blocks_of(KINDS), Gains()
    find_gains(blocks, "cpu", gains)
    for kind in range(KINDS_TIMED):
        blocks[kind].gain.note(blocks[kind].signature, [(1.0, 1.0)] * 3)
    assert blocks[-1].gain.reason
    blocks[0].reason = "it differs"
    CLEARED.clear_measurements()
    find_gains(blocks, "cpu", gains)
    assert [block.gain.reason for block in blocks] == [None] * KINDS


def test_a_block_that_cannot_be_timed_goes_on_compiled(inductor, gain_of, monkeypatch):
    import models

    def no_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    asked = []
    monkeypatch.setattr(gain_timing, "time_pairs", lambda *args: asked.append(1) or no_memory())
    patcher = models.residual_unet_patcher()
    result, record = sampled(patcher)
    torch.testing.assert_close(result, models.step(patcher))
    assert record["state"] == "compiled"
    assert len(asked) == 1, "nor is it tried again and again"
