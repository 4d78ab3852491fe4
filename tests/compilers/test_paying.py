"""On a CPU nothing is compiled that would not pay: the heaviest kind of block first, which tells of its class."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import pytest
import torch
from onediff_pack.compilers import CLEARED
from onediff_pack.compilers.blocks.regions import Region
from onediff_pack.compilers.measuring.block import Block
from onediff_pack.compilers.measuring.gains import Gains
from onediff_pack.compilers.measuring.library_time import most_saved
from onediff_pack.compilers.measuring.plan import FirstKind, Plan
from onediff_pack.compilers.session.one_block import block_runner, gain_timing
from sessions import FakeBackend, compiled_clone, known, using

pytestmark = pytest.mark.usefixtures("host")

RESIDUAL, TRANSFORMER = "ResBlock", "BasicTransformerBlock"


class Bench:
    """A stand-in for a compiler, and what its blocks gain and weigh, by the names of their classes. ``saves`` is what a
    compiler could save at most of a block's time, where that is known before; ``timed`` the classes that were timed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.gains: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.saves: float | None = None
        self.timed: list[str] = []
        self.backend = FakeBackend()
        monkeypatch.setattr(gain_timing, "time_pairs", self._pairs)
        monkeypatch.setattr(gain_timing, "most_saved", lambda run, inputs: self.saves)
        monkeypatch.setattr(block_runner, "weighed", self._weighed)
        monkeypatch.setattr(FakeBackend, "leaves_libraries", lambda backend, device: self.saves is not None)
        monkeypatch.setattr(CLEARED, "marks", CLEARED.marks)

    def _pairs(self, compiled: Callable, uncompiled: Callable, inputs: Any, device: Any, *_until: Any) -> list:
        before, kinds = len(self.backend.ran), len(self.backend.compiled)
        compiled(inputs)
        self.timed += self.backend.ran[before:]
        assert len(self.backend.compiled) == kinds, "it was compiled before it is timed"
        return [(self.gains.get(self.timed[-1], 1.0), 1.0)] * 3

    @contextmanager
    def _weighed(self, block: Block) -> Iterator[None]:
        yield
        block.weight = self.weights.get(block.kind, 1.0)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(monkeypatch)
    with using(known(bench.backend)):
        yield bench


@pytest.fixture
def patcher() -> Any:
    import models

    return models.unet_patcher()


def sampled(patcher: Any, steps: int = 4, size: int = 16, **settings: Any) -> tuple[torch.Tensor, Any]:
    """A sampling with a node of its own: the last result and the record."""
    from models import step

    clone, session, record = compiled_clone(patcher, plans=True, **{"keep_faster": True, **settings})
    return session.sampling(lambda: [step(clone, size=size) for _ in range(steps)])[-1], record


def reasons(record: Any) -> set[str]:
    return {region["reason"] for region in record["compile"]["regions_uncompiled"]}


def test_where_nothing_gains_one_kind_of_each_class_is_compiled(bench, patcher):
    from models import step

    result, record = sampled(patcher)
    torch.testing.assert_close(result, step(patcher))
    compile_ = record["compile"]
    assert sorted(bench.timed) == [TRANSFORMER, RESIDUAL]
    assert (compile_["kinds_compiled"], compile_["kinds"]) == (2, 9)
    assert compile_["regions_without_gain"] == compile_["regions"] == len(compile_["regions_uncompiled"])
    assert record["summary"] == (
        "uncompiled: no gain: 7 of 9 kinds of block were not compiled. ResBlock gains too little at this size: a"
        " compiled block ran 1.00× as fast as uncompiled."
    )
    assert (record["state"], record["speed"]["verdict"], record["speed"]["kept"]) == (
        "uncompiled",
        "same",
        "uncompiled",
    )
    assert record["compile"]["stopped"] is None


@pytest.mark.parametrize(("gain", "state"), [(1.02, "uncompiled"), (1.04, "compiled")])
def test_what_gains_more_than_noise_is_compiled_whole(bench, patcher, gain, state):
    bench.gains = {RESIDUAL: gain, TRANSFORMER: gain}
    _, record = sampled(patcher)
    assert record["state"] == state
    assert (record["compile"]["kinds_compiled"] == record["compile"]["kinds"]) is (state == "compiled")


def test_a_small_flux_that_gains_is_compiled_whole(bench):
    import models

    bench.gains = {"DoubleStreamBlock": 1.05, "SingleStreamBlock": 1.05}
    for dtype in (torch.float32, torch.bfloat16):
        _, record = sampled(models.flux_patcher(dtype=dtype))
        assert (record["state"], record["compile"]["regions_compiled"]) == ("compiled", 5)


def test_only_the_class_that_gains_is_compiled(bench, patcher):
    bench.gains = {TRANSFORMER: 1.3}
    _, record = sampled(patcher)
    assert record["state"] == "partial"
    assert reasons(record) == {
        "ResBlock gains too little at this size: a compiled block ran 1.00× as fast as uncompiled."
    }
    assert bench.backend.compiled.count(TRANSFORMER) == 7
    assert bench.backend.compiled.count(RESIDUAL) == 1


@pytest.mark.parametrize("heavy", [RESIDUAL, TRANSFORMER])
def test_the_heaviest_kind_comes_first_and_the_others_wait_no_more_than_a_step(bench, patcher, heavy):
    from models import step

    bench.gains = {RESIDUAL: 1.3, TRANSFORMER: 1.3}
    bench.weights = {heavy: 100.0}
    clone, session, record = compiled_clone(patcher, plans=True, keep_faster=True)
    states = []

    def steps():
        for _ in range(3):
            step(clone)
            states.append((bench.backend.compiled[:1], {block.pending for block in session.blocks}))

    session.sampling(steps)
    assert states == [([], {True}), ([heavy], {True, False}), ([heavy], {False})]
    assert record["state"] == "compiled"


def test_a_run_that_ends_while_blocks_wait_goes_on_in_the_next(bench, patcher):
    from models import step

    bench.gains = {RESIDUAL: 1.3, TRANSFORMER: 1.3}
    bench.weights = {TRANSFORMER: 100.0}
    clone, session, record = compiled_clone(patcher, plans=True, keep_faster=True)
    session.sampling(lambda: [step(clone), step(clone)])
    assert record["summary"].endswith("goes on with the next new picture")
    session.sampling(lambda: [step(clone), step(clone)])
    assert record["state"] == "compiled"


def test_a_class_that_gains_too_little_for_a_step_to_be_faster_is_left(bench, patcher):
    """Transformer blocks gain 1.2, and take 7 of 100 ms."""
    bench.gains = {TRANSFORMER: 1.2}
    bench.weights = {TRANSFORMER: 1.0, RESIDUAL: 93 / 8}
    _, record = sampled(patcher)
    assert record["state"] == "uncompiled"
    assert (
        "BasicTransformerBlock is not worth compiling at this size: the whole would run 1.01× as fast at most."
        in reasons(record)
    )
    assert record["compile"]["kinds_compiled"] == 2


def test_what_libraries_compute_is_left_before_anything_is_compiled(bench, patcher):
    bench.saves = 0.02
    _, record = sampled(patcher)
    assert (bench.backend.compiled, record["compile"]["kinds_compiled"]) == ([], 0)
    assert record["summary"].startswith("uncompiled: no gain: nothing was compiled. ")
    assert record["summary"].endswith(
        "can gain little at this size: 96% of its time goes into convolutions, matrix products and attention, which"
        " compiling leaves as they are."
    )


def test_compiling_ends_once_what_is_left_cannot_make_a_step_faster(bench, patcher):
    """Of transformer blocks, most of a step, nothing is gained; the others could save a twentieth of the rest."""
    bench.saves, bench.weights = 0.05, {TRANSFORMER: 10.0}
    _, record = sampled(patcher)
    assert bench.backend.compiled == [TRANSFORMER]
    assert any(reason.startswith("ResBlock is not worth compiling") for reason in reasons(record))


def test_what_is_known_is_not_asked_again(bench, patcher):
    import models

    sampled(patcher)
    compiled = len(bench.backend.compiled)
    for again in (patcher, models.unet_patcher(seed=2)):
        _, record = sampled(again)
        assert record["state"] == "uncompiled"
        said = "uncompiled: no gain: nothing more was compiled, as an earlier run timed it. ResBlock gains too little"
        assert record["summary"].startswith(said), "it does not sound as if this run had timed it"
    assert (len(bench.timed), len(bench.backend.compiled)) == (2, compiled)


def test_a_model_that_is_left_is_looked_at_in_the_first_steps_alone(bench, patcher, monkeypatch):
    from models import step

    clone, session, record = compiled_clone(patcher, plans=True, keep_faster=True)
    session.sampling(lambda: [step(clone) for _ in range(5)])
    looks, look, first = [], block_runner.BlockRunner.look, record["speed"]["eager_ms"]
    monkeypatch.setattr(block_runner.BlockRunner, "look", lambda runner: looks.append(runner) or look(runner))
    session.sampling(lambda: [step(clone) for _ in range(6)])
    assert len(looks) <= 3 * len(session.blocks)
    assert (record["speed"]["compiled_ms"], record["speed"]["verdict"]) == (None, "same")
    assert record["speed"]["eager_ms"] != first, "that of a later step"
    assert record["summary"].startswith("uncompiled: no gain: 7 of 9 kinds")


def test_another_size_of_picture_asks_again(bench, patcher):
    from models import step

    clone, session, record = compiled_clone(patcher, plans=True, keep_faster=True)
    session.sampling(lambda: [step(clone) for _ in range(3)])
    session.sampling(lambda: [step(clone, batch=1) for _ in range(3)])
    assert len(bench.timed) == 2, "another batch is not another size"
    bench.gains = {TRANSFORMER: 1.3, RESIDUAL: 1.3}
    session.sampling(lambda: [step(clone, size=24) for _ in range(4)])
    assert (len(bench.timed), record["state"]) == (4, "compiled")
    bench.gains = {}
    session.sampling(lambda: [step(clone, size=32) for _ in range(4)])
    assert (len(bench.timed), record["state"]) == (4, "compiled"), "what gained at one size is compiled for all"
    session.sampling(lambda: [step(clone) for _ in range(3)])
    assert record["state"] == "uncompiled", "and as it was at the first"


def test_another_processor_asks_again(bench, patcher):
    from onediff_pack.patching.wrappers import attach
    from onediff_pack.processors import find_sites, get_processor
    from onediff_pack.processors.attention_patch import AttentionPatch

    sampled(patcher)
    assert sorted(bench.timed) == [TRANSFORMER, RESIDUAL]
    clone = patcher.clone()
    sites = find_sites(patcher.model.diffusion_model)
    attach(clone, AttentionPatch(sites, get_processor("sdpa"), lambda options: None))
    bench.gains = {TRANSFORMER: 1.3}
    _, record = sampled(clone)
    assert bench.timed[2:] == [TRANSFORMER], "residual blocks have no processor"
    assert record["state"] == "partial"


def test_code_of_other_nodes_runs_no_more_often_than_it_must(bench, patcher):
    calls = []

    def counts(layer: Any, *args: Any) -> Any:
        calls.append(layer)
        return type(layer).forward(layer, *args)

    blocks = [m for m in patcher.model.diffusion_model.modules() if type(m).__name__ == RESIDUAL]
    for block in blocks:
        block.out_layers.forward = MethodType(counts, block.out_layers)
    bench.weights = {RESIDUAL: 10.0}
    _, record = sampled(patcher, steps=3)
    assert bench.timed == [TRANSFORMER]
    assert len(calls) == (3 + 1) * len(blocks)
    assert record["compile"]["regions_compiled"] == len(blocks)


def test_without_keep_faster_everything_is_compiled(bench, patcher):
    _, record = sampled(patcher, keep_faster=False)
    assert (record["state"], bench.timed) == ("compiled", [])


def test_cleared_measurements_are_asked_for_anew(bench, patcher):
    sampled(patcher)
    bench.gains = {RESIDUAL: 1.3, TRANSFORMER: 1.3}
    CLEARED.clear_measurements()
    _, record = sampled(patcher)
    assert record["state"] == "compiled"


def test_a_block_that_cannot_be_timed_goes_on_compiled(bench, patcher, monkeypatch):
    def no_memory(*_args: Any, **_settings: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(gain_timing, "time_pairs", no_memory)
    _, record = sampled(patcher)
    assert record["state"] == "compiled"


def linear_blocks(kinds: int) -> list[Block]:
    blocks = [Block(Region(f"blocks.{kind}", torch.nn.Linear(1, 1 + kind))) for kind in range(kinds)]
    for block in blocks:
        block.functions = (torch.nn.Linear.forward,)
    return blocks


def test_on_a_gpu_one_block_does_not_tell():
    """There a gain may come from several blocks together: classes of few kinds are compiled, as ever."""
    few = linear_blocks(3)
    Gains().give(few, "cuda", "way", "4×64×64")
    assert not any(block.gain.asks(block.signature) for block in few)
    Gains().give(few, "cpu", "way", "4×64×64")
    assert all(block.gain.asks(block.signature) for block in few)


def test_what_is_known_keeps_no_processor_alive():
    (block,), gains = linear_blocks(1), Gains()

    def forward(layer: Any, x: Any) -> Any:
        return x

    forward.__dict__["repeatable"] = True
    block.functions, gone = (torch.nn.Linear.forward, forward), weakref.ref(forward)
    gains.give([block], "cpu", "way", "4×64×64")
    block.gain.note(block.signature, [(1.0, 1.0)] * 3)
    del forward
    block.functions = (torch.nn.Linear.forward,)
    gains.give([block], "cpu", "way", "4×64×64")
    gc.collect()
    assert gone() is None
    assert block.gain.reason is None


@pytest.mark.parametrize(
    ("ratios", "told"),
    [([1.0, 0.99, 1.02], True), ([1.2, 1.04, 1.1], True), ([1.0, 1.02, 1.06], False), ([1.2, 0.9, 1.1], False)],
)
def test_pairs_are_timed_until_they_agree_on_whether_the_gain_is_more_than_noise(ratios, told):
    blocks = linear_blocks(1)
    gain = FirstKind(Plan(blocks), blocks, {}, "4×64×64")
    assert gain.tell([(ratio, 1.0) for ratio in ratios]) is told


def test_one_run_in_which_the_machine_held_up_a_library_leaves_nothing():
    x, runs = torch.randn(512, 512), []

    def sometimes_by_itself(_inputs: Any) -> None:
        runs.append(None)
        if len(runs) == 2:
            time.sleep(0.1)
        torch.nn.functional.linear(x, x)

    with torch.inference_mode():
        assert most_saved(sometimes_by_itself, ((), {})) > 0.3


def test_what_a_compiler_could_save_is_what_libraries_do_not_take():
    x, weight = torch.randn(1024, 1024), torch.randn(1024, 1024)
    with torch.inference_mode():
        by_library = min(most_saved(lambda _: torch.nn.functional.linear(x, weight), ((), {})) for _ in range(5))
        by_itself = most_saved(lambda _: torch.sin(x) * torch.cos(x) + torch.exp(x), ((), {}))
    assert by_library < 0.1
    assert by_itself == pytest.approx(0.5, abs=0.01)
