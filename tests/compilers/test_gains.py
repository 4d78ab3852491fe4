"""A class of blocks that gains nothing is not compiled kind by kind to the end."""

from __future__ import annotations

from types import MethodType

import pytest
import torch
from onediff_pack.compilers import CLEARED, Host, Session, Settings, gains, region_runner
from onediff_pack.compilers.gains import KINDS_TIMED, MIN_KINDS_SAVED, ClassGain, time_pairs
from onediff_pack.compilers.graphs import GraphCache
from onediff_pack.processors.attach import attach
from onediff_pack.status import Record
from passthrough import without_inductor

pytestmark = pytest.mark.usefixtures("host")

KINDS = frozenset(range(KINDS_TIMED + MIN_KINDS_SAVED))


@pytest.fixture(scope="module")
def inductor():
    with without_inductor() as passthrough:
        yield passthrough


@pytest.fixture
def gain_of(inductor, monkeypatch):
    """Sets how many times as fast compiled blocks run as uncompiled ones, in place of the clock."""
    monkeypatch.setattr(gains, "_known", {})
    monkeypatch.setattr(region_runner, "GRAPHS", GraphCache())
    monkeypatch.setattr(CLEARED, "measurements", CLEARED.measurements)

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
    return set_to


def sampled(patcher, steps=3, keep_faster=True, **call):
    """A sampling with a node of its own: the last result and the record."""
    from models import step

    record, clone = Record("workflow", "7"), patcher.clone()
    session = Session(
        Settings("inductor", keep_faster=keep_faster), record, Host(lambda: None, "test"), torch.device("cpu")
    )
    attach(clone, session)
    return session.sampling(lambda: [step(clone, **call) for _ in range(steps)])[-1], record


def uncompiled(record):
    return {r["reason"] for r in record["compile"]["regions_uncompiled"]}


def test_residual_blocks_that_gain_nothing_are_left_after_two_kinds(inductor, gain_of):
    import models

    gain_of(0.99)
    patcher = models.deep_unet_patcher()
    before = inductor.graphs
    result, record = sampled(patcher)
    torch.testing.assert_close(result, models.step(patcher))
    transformers = 3  # kinds: the widths that have attention
    assert inductor.graphs - before == transformers + KINDS_TIMED
    assert uncompiled(record) == {
        "2 of the 12 kinds of ResBlock were compiled and ran 0.99× as fast as uncompiled: this class is not worth"
        " compiling."
    }
    assert record["state"] == "partial"
    assert len(record["compile"]["regions_uncompiled"]) == 22
    assert record["compile"]["regions_compiled"] == 16
    assert record["compile"]["regions_without_gain"] == 22


def test_another_checkpoint_of_the_architecture_and_other_sizes_compile_nothing_new(inductor, gain_of):
    """Also where the clock would say something else by then."""
    import models

    gain_of(0.99)
    first, other = models.deep_unet_patcher(), models.deep_unet_patcher(seed=2)
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
    _, record = sampled(models.deep_unet_patcher())
    assert (record["state"], inductor.graphs - before) == ("compiled", 15)


def test_without_keep_faster_all_are_compiled(inductor, gain_of):
    import models

    gain_of(0.5)
    _, record = sampled(models.deep_unet_patcher(), keep_faster=False)
    assert record["state"] == "compiled"


@pytest.mark.parametrize("runs_anew", [False, True])
def test_cleared_measurements_are_taken_anew(runs_anew, inductor, gain_of):
    """By the node that measured them, and by one that ComfyUI runs anew."""
    import models

    gain_of(0.99)
    patcher = models.deep_unet_patcher()
    record, clone = Record("workflow", "7"), patcher.clone()
    session = Session(Settings("inductor"), record, Host(lambda: None, "test"), torch.device("cpu"))
    attach(clone, session)
    session.sampling(lambda: [models.step(clone) for _ in range(3)])
    assert record["state"] == "partial"
    gain_of(1.2)
    CLEARED.clear_measurements()
    if runs_anew:
        _, record = sampled(patcher)
    else:
        session.sampling(lambda: [models.step(clone) for _ in range(3)])
    assert record["state"] == "compiled"


def test_a_block_with_another_nodes_code_in_it_is_called_no_more_often_than_needed(inductor, gain_of):
    """Such code may count its calls. The comparison takes one more, timing would take ten."""
    import models

    def through(layer, x, *args):
        return type(layer).forward(layer, x, *args)

    gain_of(0.99)
    patcher = models.deep_unet_patcher()
    blocks = [m for m in patcher.model.diffusion_model.modules() if type(m).__name__ == "ResBlock"]
    for block in blocks:
        block.out_layers.forward = MethodType(through, block.out_layers)
    before = inductor.runs
    _, record = sampled(patcher, steps=2)
    assert record["compile"]["regions_compiled"] == record["compile"]["regions"]
    assert inductor.runs - before == record["compile"]["regions"]


def test_a_class_of_few_kinds_is_not_timed():
    few = ClassGain("Block", frozenset(range(len(KINDS) - 1)))
    assert not few.asks(0)
    assert not ClassGain().asks(0)


def test_each_kind_is_asked_for_once_and_the_median_over_all_decides():
    gain = ClassGain("Block", KINDS)
    assert gain.asks(0)
    gain.note(0, [])
    assert gain.asks(0), "it could not be timed"
    gain.note(0, [(1.0, 10.0), (1.1, 1.0), (1.1, 1.0)])
    assert not gain.asks(0)
    assert gain.asks(1)
    gain.note(1, [(1.1, 1.0), (1.1, 1.0), (9.0, 10.0)])
    assert gain.reason is None, "two slow runs of six are a spike"
    assert not gain.asks(2)


def test_a_slow_block_is_timed_for_a_few_seconds_only(monkeypatch):
    clock = iter(range(0, 1000, 1))
    monkeypatch.setattr(gains.time, "monotonic", lambda: float(next(clock)))
    ran = []
    pairs = time_pairs(
        lambda own: ran.append("compiled"), lambda own: ran.append("uncompiled"), ((), {}), torch.device("cpu")
    )
    assert len(pairs) == 1
    assert ran == ["compiled", "uncompiled"]


def test_each_run_has_its_own_inputs():
    x, seen = torch.zeros(2), []

    def writes(inputs):
        ((own,), _) = inputs
        seen.append(own.clone())
        own += 1

    time_pairs(writes, writes, ((x,), {}), torch.device("cpu"))
    assert len(seen) == 2 * gains.PAIRS
    assert all(torch.equal(found, torch.zeros(2)) for found in (*seen, x))


def test_a_block_that_cannot_be_timed_goes_on_compiled(inductor, gain_of, monkeypatch):
    import models

    def no_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(region_runner, "time_pairs", no_memory)
    patcher = models.deep_unet_patcher()
    result, record = sampled(patcher)
    torch.testing.assert_close(result, models.step(patcher))
    assert record["state"] == "compiled"
