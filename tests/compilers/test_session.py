"""A session on the host's models with a backend that compiles nothing and counts: which code ran, and what is said."""

from __future__ import annotations

import math

import pytest
import torch
from onediff_pack.compilers import BACKENDS, Host, ModelUnfit, Session, Settings, backends
from onediff_pack.processors import find_sites, get_processor
from onediff_pack.processors.attach import KEY, AttentionPatch, attach
from onediff_pack.status import Record, timing

pytestmark = pytest.mark.usefixtures("host")


class Interrupt(BaseException):
    pass


class CountingBackend:
    """Runs a block as it is, and counts. ``change(name, result)`` may spoil a result or raise."""

    name = "counting"
    package = "torch"

    def __init__(self):
        self.compiled: list[str] = []
        self.ran: list[str] = []
        self.change = lambda name, result: result

    def absent(self):
        return None

    def compile(self, block, graph, effort):
        name = type(block).__name__
        self.compiled.append(name)
        graph.graphs = graph.graphs or 1

        def run(*args, **kwargs):
            self.ran.append(name)
            return self.change(name, graph.forward(block, *args, **kwargs))

        return run

    def explain(self, error):
        return f"{type(error).__name__}: {error}", None


@pytest.fixture
def backend(monkeypatch):
    counting = CountingBackend()
    monkeypatch.setattr(backends, "BACKENDS", {"counting": counting, **BACKENDS})
    monkeypatch.setattr(backends, "_proofs", {("counting", "cpu"): backends.Proof(True, "counts.", 0.0)})
    return counting


@pytest.fixture
def interrupted():
    return []


@pytest.fixture(params=["unet", "flux"])
def patcher(request):
    import models

    return getattr(models, f"{request.param}_patcher")()


def compiled_clone(patcher, interrupted=None, **settings):
    def check_interrupt():
        if interrupted:
            raise Interrupt

    settings = {"backend": "counting", "keep_faster": False, **settings}
    record = Record("workflow", "7")
    clone = patcher.clone()
    session = Session(Settings(**settings), record, Host(check_interrupt, Interrupt, "test"), torch.device("cpu"))
    attach(clone, session)
    return clone, session, record


def test_the_steps_and_the_record(patcher, backend):
    from models import step

    plain = step(patcher)
    clone, session, record = compiled_clone(patcher)
    for number in range(8):
        torch.testing.assert_close(step(clone), plain)
        if number == 0:
            assert backend.ran == []  # the first step runs uncompiled
    regions = len(session.runners)
    # Steps 2, 3, 5, 7 and 8 ran compiled, 4 and 6 uncompiled beside them.
    assert len(backend.ran) == 5 * regions
    assert record["state"] == "compiled"
    assert record["compile"]["regions_compiled"] == regions
    assert record["compile"]["graphs"] == len({runner.region.signature for runner in session.runners})
    assert record["compile"]["recompiles"] == []
    assert record["parity"]["passed"]
    assert record["parity"]["relative"] == 0
    assert record["speed"]["eager_ms"] > 0
    assert record["speed"]["compiled_ms"] > 0
    assert record["speed"]["kept"] == "compiled"
    assert not [path for path, module in clone.model.named_modules() if "forward" in module.__dict__]


def test_equal_blocks_share_a_graph_also_with_a_second_node(patcher, backend):
    from models import step

    first, session, _record = compiled_clone(patcher)
    for _ in range(3):
        step(first)
    second, other, other_record = compiled_clone(patcher)
    for _ in range(2):
        step(second)
    graphs = {graph for runner in session.runners for graph in runner.graphs.values()}
    assert graphs == {graph for runner in other.runners for graph in runner.graphs.values()}
    assert other_record["compile"]["seconds"] == 0


def test_a_patch_is_part_of_the_compiled_variant_and_toggling_it_gives_the_first_result_again(patcher, backend):
    from models import step

    clone, _session, _ = compiled_clone(patcher)
    for _ in range(3):
        plain = step(clone)
    patched = clone.clone()
    sites = find_sites(patcher.model.diffusion_model)
    attach(patched, AttentionPatch(sites, Zeros(), lambda options: None))
    uncompiled = patcher.clone()
    attach(uncompiled, AttentionPatch(sites, Zeros(), lambda options: None))
    for _ in range(3):
        torch.testing.assert_close(step(patched), step(uncompiled))
    assert not torch.allclose(step(patched), plain)
    torch.testing.assert_close(step(clone), plain)
    assert [type(w).__name__ for w in patched.get_wrappers("apply_model", KEY)] == ["AttentionPatch", "Session"]


class Zeros(type(get_processor("sdpa"))):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) * 0


def test_a_foreign_override_runs_the_blocks_uncompiled_and_is_named(patcher, backend):
    from models import step

    def zero_attention(func, *args, **kwargs):
        return func(*args, **kwargs) * 0

    clone, session, record = compiled_clone(patcher)
    for _ in range(6):  # the last of the steps that run uncompiled for their time
        plain = step(clone)
    expected = step(patcher, optimized_attention_override=zero_attention)
    torch.testing.assert_close(step(clone, optimized_attention_override=zero_attention), expected)
    session.publish()
    assert record["state"] == "partial"
    reasons = {region["reason"] for region in record["compile"]["regions_uncompiled"]}
    assert any("replaced attention" in reason and "zero_attention" in reason for reason in reasons)
    torch.testing.assert_close(step(clone), plain)


@pytest.mark.parametrize("spoil", [lambda x: x * 1.01, lambda x: x * math.nan], ids=["1 %", "NaN"])
def test_a_block_that_differs_stays_uncompiled(patcher, backend, spoil):
    from models import step

    guilty = type(find_sites(patcher.model.diffusion_model)[-1].module).__name__
    guilty = "BasicTransformerBlock" if guilty == "CrossAttention" else guilty
    plain = step(patcher)
    clone, session, record = compiled_clone(patcher)
    backend.change = lambda name, result: spoil(result) if name == guilty else result
    for _ in range(4):
        torch.testing.assert_close(step(clone), plain)
    assert record["state"] == "partial"
    assert not record["parity"]["passed"]
    assert all("differs from the uncompiled one" in r["reason"] for r in record["compile"]["regions_uncompiled"])
    assert {type(r.block).__name__ for r in session.runners if r.reason} == {guilty}


def test_a_block_that_cannot_be_compiled_runs_uncompiled(patcher, backend):
    from models import step

    def fail(name, result):
        raise RuntimeError("no such operator")

    plain = step(patcher)
    clone, _, record = compiled_clone(patcher)
    backend.change = fail
    for _ in range(3):
        torch.testing.assert_close(step(clone), plain)
    assert record["state"] == "uncompiled"
    assert "no such operator" in record["backend"]["reason"]
    assert record["compile"]["regions_compiled"] == 0


def test_compiled_code_that_fails_later_ends_in_the_right_result(patcher, backend):
    from models import step

    plain = step(patcher)
    clone, _, record = compiled_clone(patcher)
    for _ in range(3):
        step(clone)
    calls = []

    def fail_in_the_third_block(name, result):
        calls.append(name)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    for _ in range(3):
        backend.change = fail_in_the_third_block
        torch.testing.assert_close(step(clone), plain)
    assert record["state"] == "uncompiled"
    assert "compiled code failed: OutOfMemoryError" in record["backend"]["reason"]


def test_stop_if_unfit_stops_with_the_reason(patcher, backend):
    from models import step

    clone, _, record = compiled_clone(patcher, stop_if_unfit=True)
    backend.change = lambda name, result: result * 2
    step(clone)
    with pytest.raises(ModelUnfit, match=r"OneDiff Compile \(node 7\): .* differs from the uncompiled one.*if_unfit"):
        step(clone)
    assert record["state"] == "failed"


def test_cancel_gets_through_between_blocks(patcher, backend, interrupted):
    from models import step

    clone, _, _ = compiled_clone(patcher, interrupted)
    step(clone)
    interrupted.append(True)
    with pytest.raises(Interrupt):
        step(clone)
    interrupted.clear()
    torch.testing.assert_close(step(clone), step(patcher))


def test_the_slower_way_is_given_up(patcher, backend, monkeypatch):
    from models import step

    def time(self, call):
        before = len(backend.ran)
        result = call()
        return result, 30.0 if len(backend.ran) > before else 20.0

    monkeypatch.setattr(timing.Stopwatch, "time", time)
    clone, _, record = compiled_clone(patcher, keep_faster=True)
    for _ in range(9):
        step(clone)
    assert record["state"] == "uncompiled"
    assert record["speed"] | {"steps_ms": None} == {
        "eager_ms": 20.0,
        "compiled_ms": 30.0,
        "speedup": 0.667,
        "per_second": 50.0,
        "steps_ms": None,
        "kept": "uncompiled",
        "breakeven_images": None,
    }
    ran = len(backend.ran)
    step(clone)
    assert len(backend.ran) == ran
    again, _, record = compiled_clone(patcher, keep_faster=True)
    step(again)
    assert record["state"] == "uncompiled"  # known from before: not tried a second time


def test_a_broken_module_keeps_its_block_uncompiled(backend):
    from models import step, unet_patcher

    class NoForward(torch.nn.Module):
        pass

    patcher = unet_patcher()
    block = patcher.model.diffusion_model.middle_block[1].transformer_blocks[0]
    block.ff.net.append(NoForward())
    block.ff.forward = lambda x: x
    plain = step(patcher)
    clone, _, record = compiled_clone(patcher)
    for _ in range(3):
        torch.testing.assert_close(step(clone), plain)
    (uncompiled,) = record["compile"]["regions_uncompiled"]
    assert uncompiled["path"] == "middle_block.1.transformer_blocks.0"
    assert "has no forward" in uncompiled["reason"]
    assert record["check"]["errors"] == 1


def test_an_unknown_or_absent_backend_gives_way_and_says_so(patcher, backend):
    from models import step

    for requested, words in [("oneflow", "oneflow is not available"), ("tensor-rt", "knows no backend 'tensor-rt'")]:
        clone, _, record = compiled_clone(patcher, backend=requested)
        step(clone)
        assert record["backend"]["requested"] == requested
        assert record["backend"]["used"] == "counting"
        assert words in record["backend"]["reason"]
