"""A session on the host's models with a backend that compiles nothing and counts: which code ran, and what is said."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import time
import types
import unittest.mock

import pytest
import torch
from onediff_pack.compilers import (
    BACKENDS,
    CLEARED,
    BlockCounter,
    ModelUnfit,
    Settings,
    StepClock,
    compile_seconds_asked,
)
from onediff_pack.compilers.choice.prove import Proofs
from onediff_pack.compilers.session.one_block import first_runs
from onediff_pack.measure import stopwatch as timing
from onediff_pack.measure.pairs import MOST_PAIRS
from onediff_pack.patching.wrappers import KEY, attach
from onediff_pack.processors import find_sites, get_processor
from onediff_pack.processors.attention_patch import AttentionPatch
from onediff_pack.processors.built_in.sdpa import SDPAProcessor
from onediff_pack.proving.proof import Proof
from onediff_pack.speed_report.figures import Sampling, SpeedReport
from onediff_pack.status import record as status_record
from sessions import FakeBackend, compiled_clone, known, using
from torch.utils import _pytree as pytree

pytestmark = pytest.mark.usefixtures("host")


class Interrupt(BaseException):
    pass


@pytest.fixture
def interrupted():
    return []


def interrupting(interrupted):
    """ComfyUI's check, which raises while anything is in the list."""

    def check_interrupt():
        if interrupted:
            raise Interrupt

    return check_interrupt


@pytest.fixture(params=["unet", "flux"])
def patcher(request):
    import models

    return getattr(models, f"{request.param}_patcher")()


def sample(session, clone, steps=1, **options):
    """A sampling of some steps, as ComfyUI's outer_sample calls it; the last result."""
    from models import step

    return session.sampling(lambda: [step(clone, **options) for _ in range(steps)])[-1]


def test_the_steps_and_the_record(patcher, backend):
    from models import step

    plain = step(patcher)
    clone, session, record = compiled_clone(patcher)
    for number in range(12):
        torch.testing.assert_close(step(clone), plain)
        if number == 0:
            assert backend.ran == []  # the first step runs uncompiled
    regions = len(session.blocks)
    # Step 2 compiles; then four pairs of steps, two of them begun by each way.
    assert len(backend.ran) == 7 * regions
    session.publish()
    assert record["state"] == "compiled"
    assert record["compile"]["regions_compiled"] == regions
    assert record["compile"]["graphs"] == len({block.signature for block in session.blocks})
    assert record["compile"]["recompiles"] == []
    assert record["parity"]["passed"]
    assert record["parity"]["relative"] == 0
    assert record["speed"]["eager_ms"] > 0
    assert record["speed"]["compiled_ms"] > 0
    c, u = "compiled", "uncompiled"
    assert record["speed"]["steps_kind"] == [u, "compiling", c, u, u, c, u, c, c, u, c, c]
    assert len(record["speed"]["steps_ms"]) == 12
    assert record["speed"]["pairs"] == 4
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
    graphs = {graph for block in session.blocks for graph in block.graphs.values()}
    assert graphs == {graph for block in other.blocks for graph in block.graphs.values()}
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


class Zeros(SDPAProcessor):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) * 0


def test_a_foreign_override_runs_the_blocks_uncompiled_and_is_named(patcher, backend):
    from models import step

    def zero_attention(func, *args, **kwargs):
        return func(*args, **kwargs) * 0

    clone, session, record = compiled_clone(patcher)
    for _ in range(10):  # the pairs of steps that are timed are behind it
        plain = step(clone)
    expected = step(patcher, optimized_attention_override=zero_attention)
    torch.testing.assert_close(step(clone, optimized_attention_override=zero_attention), expected)
    session.publish()
    with_attention = {
        path
        for path, module in patcher.model.diffusion_model.named_modules()
        if type(module).__name__ in ("BasicTransformerBlock", "DoubleStreamBlock", "SingleStreamBlock")
    }
    uncompiled = {region["path"]: region["reason"] for region in record["compile"]["regions_uncompiled"]}
    assert set(uncompiled) == with_attention
    assert all("replaced attention" in reason and "zero_attention" in reason for reason in uncompiled.values())
    # The residual blocks of a UNet compute no attention.
    assert record["state"] == ("partial" if hasattr(patcher.model.diffusion_model, "input_blocks") else "uncompiled")
    torch.testing.assert_close(step(clone), plain)


def test_an_override_whose_place_a_processor_takes_costs_nothing(patcher, backend):
    """As Patch Attention Processors does with an override that was on the model before it."""
    from models import step

    def earlier(func, *args, **kwargs):
        return func(*args, **kwargs) * 0

    def later(func, *args, **kwargs):
        return func(*args, **kwargs) * 2

    clone, session, record = compiled_clone(patcher)
    sites = find_sites(patcher.model.diffusion_model)
    attach(clone, AttentionPatch(sites, get_processor("sdpa"), lambda options: None, superseded=earlier))
    plain = sample(session, clone, 12)  # all pairs of steps are timed
    ran = len(backend.ran)
    torch.testing.assert_close(sample(session, clone, 2, optimized_attention_override=earlier), plain)
    assert len(backend.ran) == ran + 2 * len(session.blocks)
    assert (record["state"], record["compile"]["regions_uncompiled"]) == ("compiled", [])
    expected = step(patcher, optimized_attention_override=later)
    torch.testing.assert_close(sample(session, clone, 2, optimized_attention_override=later), expected)
    assert any("later" in r["reason"] for r in record["compile"]["regions_uncompiled"])


def test_what_a_patch_reads_is_forgotten_with_the_patch(patcher, backend):
    """It reads tensors of transformer_options, in the very first step; the block itself does not."""
    clone, session, record = compiled_clone(patcher)
    patched = clone.clone()

    def patch(q, k, v, extra_options=None, pe=None, attn_mask=None):
        q = q * extra_options["sigmas"][0]
        return (q, k, v) if pe is None else {"q": q, "k": k, "v": v, "pe": pe}

    patched.set_model_attn1_patch(patch)
    sample(session, patched, 3)
    assert any("input patch" in r["reason"] for r in record["compile"]["regions_uncompiled"])
    sample(session, clone, 6)
    assert (record["state"], record["compile"]["regions_uncompiled"]) == ("compiled", [])


@pytest.mark.parametrize(("name", "factor"), [("1 %", 1.01), ("NaN", math.nan)])
def test_a_block_that_differs_stays_uncompiled(patcher, backend, name, factor):
    from models import step

    guilty = type(find_sites(patcher.model.diffusion_model)[-1].module).__name__
    guilty = "BasicTransformerBlock" if guilty == "CrossAttention" else guilty
    plain = step(patcher)
    clone, session, record = compiled_clone(patcher)
    backend.change = lambda kind, result: result * factor if kind == guilty else result
    for _ in range(4):
        torch.testing.assert_close(step(clone), plain)
    assert record["state"] == "partial"
    assert not record["parity"]["passed"]
    words = {
        "1 %": "differs from the uncompiled one by 1.0e-02",
        "NaN": "has NaN, Inf, other whole numbers",
    }
    assert all(words[name] in region["reason"] for region in record["compile"]["regions_uncompiled"])
    assert {type(r.module).__name__ for r in session.blocks if r.reason} == {guilty}


def test_a_block_that_cannot_be_compiled_runs_uncompiled(patcher, backend):
    from models import step

    def fail(name, result):
        raise RuntimeError("no such operator")

    plain = step(patcher)
    clone, session, record = compiled_clone(patcher)
    backend.change = fail
    for _ in range(3):
        torch.testing.assert_close(step(clone), plain)
    assert len(backend.ran) == len(session.failures.graphs) < record["compile"]["regions"], "one attempt a graph"
    assert record["state"] == "uncompiled"
    assert "no such operator" in record["backend"]["reason"]
    assert record["compile"]["regions_compiled"] == 0


@pytest.mark.parametrize("passing", [True, False])
def test_what_failed_for_a_reason_that_passes_is_tried_again_at_the_next_sampling(patcher, backend, passing):
    """A full disk, a compiler that was killed."""
    from onediff_pack.compilers.backends.protocol import Failure

    def fail(name, result):
        raise OSError("no space left")

    backend.change = fail
    backend.explain = lambda error: Failure(f"OSError: {error}", passing=passing)
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, steps=3)
    assert record["summary"].startswith("uncompiled: ")
    backend.change = lambda name, result: result
    for _ in range(2):
        sample(session, clone, steps=3)
    assert (record["state"] == "compiled") is passing, record["summary"]


def test_what_goes_on_failing_so_is_not_tried_for_ever(patcher, backend):
    from onediff_pack.compilers.backends.protocol import Failure
    from onediff_pack.compilers.session.failures import MOST_TRIES

    def fail(name, result):
        raise OSError("no space left")

    backend.change = fail
    backend.explain = lambda error: Failure(f"OSError: {error}", passing=True)
    clone, session, _ = compiled_clone(patcher)
    tries = []
    for _ in range(MOST_TRIES + 3):
        backend.ran.clear()
        sample(session, clone, steps=3)
        tries.append(len(backend.ran))
    assert tries[0] > 0 and tries[-1] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_block_of_few_bits_that_differs_is_compiled_once_more_with_casts_emulated(backend, monkeypatch, dtype):
    import models

    patcher = models.flux_patcher()
    block_type = "SingleStreamBlock"
    low = patcher.model.diffusion_model.single_blocks
    computes_in(dtype, patcher, monkeypatch)
    monkeypatch.setattr(type(backend), "emulates_casts", lambda self, device: True)
    backend.change = lambda kind, result: result * 1.1 if kind == block_type and not backend.emulated else result
    plain = models.step(patcher)
    clone, session, record = compiled_clone(patcher)
    for _ in range(6):
        torch.testing.assert_close(models.step(clone), plain)
    session.publish()
    uncompiled = record["compile"]["regions_uncompiled"]
    if dtype is torch.float32:  # there is no cast to emulate
        assert len(uncompiled) == len(low)
    else:
        assert uncompiled == []
        assert record["parity"]["passed"]
        assert (
            f"With precision casts emulated, because they differed without: {block_type}."
            in record["backend"]["reason"]
        )
    assert record["compile"]["regions_compiled"] == record["compile"]["regions"] - len(uncompiled)


def test_a_block_that_differs_also_with_casts_emulated_stays_uncompiled(backend, monkeypatch):
    import models

    patcher, emulated = models.flux_patcher(), []
    computes_in(torch.bfloat16, patcher, monkeypatch)
    monkeypatch.setattr(type(backend), "emulates_casts", lambda self, device: True)

    def change(kind, result):
        if kind != "SingleStreamBlock":
            return result
        emulated.append(backend.emulated)
        return result * 1.1

    backend.change = change
    plain = models.step(patcher)
    clone, _session, record = compiled_clone(patcher)
    for _ in range(6):
        torch.testing.assert_close(models.step(clone), plain)
    uncompiled = {region["path"]: region["reason"] for region in record["compile"]["regions_uncompiled"]}
    assert set(uncompiled) == {f"single_blocks.{number}" for number in range(3)}
    assert all("differs from the uncompiled one" in reason for reason in uncompiled.values())
    assert True in emulated, "it was tried"
    assert not record["parity"]["passed"]


def computes_in(dtype, patcher, monkeypatch):
    """The single blocks of a Flux give results in another dtype."""
    model = patcher.model.diffusion_model
    forward = type(model.single_blocks[0]).forward

    def in_few_bits(self, x, *args, **kwargs):
        return forward(self, x, *args, **kwargs).to(dtype)

    monkeypatch.setattr(type(model.single_blocks[0]), "forward", in_few_bits)
    model.final_layer.register_forward_pre_hook(lambda module, args: (args[0].float(), *args[1:]))


def test_running_out_of_memory_while_compiling_ends_in_the_right_result(patcher, backend):
    from models import step

    plain = step(patcher)
    clone, _session, record = compiled_clone(patcher)

    def fail(name, result):
        raise torch.OutOfMemoryError("CUDA out of memory")

    backend.change = fail
    for _ in range(3):
        torch.testing.assert_close(sample(_session, clone), plain)
    assert len(backend.ran) == 1, "one attempt"
    assert record["backend"]["reason"] == "compiled code ran out of memory at this size."
    assert (record["state"], record["compile"]["stopped"]) == ("uncompiled", None)
    backend.change = lambda name, result: result
    sample(_session, clone, steps=3, size=12)
    assert record["state"] == "compiled", "another size is compiled"


def test_without_memory_for_the_comparison_the_result_is_right_too(patcher, backend, monkeypatch):
    from models import step

    plain = step(patcher)
    clone, session, record = compiled_clone(patcher)

    def fail(*_args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name in ("compare", "clone_inputs"):
        with monkeypatch.context() as patch:
            patch.setattr(first_runs, name, fail)
            torch.testing.assert_close(sample(session, clone, 3), plain)
        assert record["backend"]["reason"] == "compiled code ran out of memory at this size."
        session.failures.forget()


def test_a_patch_that_was_there_first_does_not_keep_steps_from_being_timed(backend, monkeypatch):
    """Its blocks are never seen without it, so what they read stays unknown; the others are compiled."""
    from models import unet_patcher

    monkeypatch.setattr(timing.Stopwatch, "time", lambda self, call, wait: (call(), 20.0))
    clone, session, record = compiled_clone(unet_patcher(), keep_faster=True)

    def override(attention, *args, **kwargs):
        return attention(*args, **kwargs)

    sample(session, clone, 40, optimized_attention_override=override)
    assert "ResBlock" in backend.ran
    assert record["speed"]["eager_ms"] > 0
    assert record["speed"]["compiled_ms"] > 0
    assert record["speed"]["steps_kind"].count("compiling") <= 2


def test_a_backend_that_is_tried_again_reaches_the_session_that_gave_up(patcher, monkeypatch):
    monkeypatch.setattr(CLEARED, "marks", CLEARED.marks)
    counting, missing = FakeBackend(), Proof(False, "no compiler: install one.")
    proofs = known(**dict.fromkeys(("counting", *BACKENDS), missing))
    proofs.backends = {"counting": counting, **BACKENDS}
    with using(proofs):
        clone, session, record = compiled_clone(patcher)
    sample(session, clone, 3)
    assert record["summary"].startswith("uncompiled: counting is not available: no compiler: install one. inductor: ")
    proofs.forget_failures()
    sample(session, clone, 3)
    assert record["state"] == "uncompiled"
    CLEARED.forget_failed_backends()
    sample(session, clone, 3)
    assert record["state"] == "compiled"


def test_after_its_seconds_compiling_goes_on_in_the_next_picture(patcher, backend):
    from models import step

    plain = step(patcher)
    clone, session, record = compiled_clone(patcher, compile_seconds=0.05)

    def slow(name, result):
        if name not in done:
            done.add(name)
            time.sleep(0.06)
        return result

    done = set()
    backend.change = slow
    torch.testing.assert_close(sample(session, clone, 6), plain)
    assert record["state"] == "partial"
    first = record["compile"]["regions_compiled"]
    assert record["compile"]["stopped"] == {"done": first, "total": len(session.blocks), "beside": False}
    assert record["summary"] == f"stopped at {first}/{len(session.blocks)} · goes on with the next new picture"
    reasons = {region["reason"] for region in record["compile"]["regions_uncompiled"]}
    assert reasons == {"0 s of compiling is the limit for one picture: it is compiled in the next."}
    assert record["speed"]["pairs"] == 0, "a model that is half compiled is not judged"
    for _ in range(8):
        torch.testing.assert_close(sample(session, clone, 6), plain)
    assert 0 < first < record["compile"]["regions_compiled"] == record["compile"]["regions"]
    assert record["compile"]["regions_uncompiled"] == []
    assert record["speed"]["pairs"] > 0


def test_no_seconds_for_compiling_leave_everything_uncompiled(patcher, backend):
    clone, session, record = compiled_clone(patcher, compile_seconds=0.0)
    sample(session, clone, 3)
    assert (record["state"], backend.ran) == ("uncompiled", [])
    assert record["summary"] == "uncompiled: ONEDIFF_COMPILE_SECONDS is 0: nothing new is compiled."
    assert record["compile"]["stopped"] is None, "it does not go on in the next run either"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("0", 0.0), ("inf", math.inf), ("soon", None), ("-1", None)]
)
def test_the_seconds_are_an_environment_variable(monkeypatch, text, seconds):
    monkeypatch.setenv("ONEDIFF_COMPILE_SECONDS", text)
    assert compile_seconds_asked() == seconds
    monkeypatch.delenv("ONEDIFF_COMPILE_SECONDS")
    assert compile_seconds_asked() is None
    assert Settings().budget < Settings(effort="max speed").budget


@pytest.mark.parametrize("failing_block", [1, 3])
@pytest.mark.parametrize("error", [RuntimeError("no kernel image"), torch.OutOfMemoryError("CUDA out of memory")])
def test_compiled_code_that_fails_later_ends_in_the_right_result(patcher, backend, failing_block, error):
    from models import step

    plain = step(patcher)
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 3)
    calls = []

    def fail(name, result):
        calls.append(name)
        if len(calls) == failing_block:
            raise error
        return result

    backend.change = fail
    torch.testing.assert_close(sample(session, clone, 3), plain)
    if isinstance(error, torch.OutOfMemoryError):
        assert record["backend"]["reason"] == "compiled code ran out of memory at this size."
        assert record["state"] == "uncompiled"
        sample(session, clone, size=12)
        assert record["state"] == "compiled", "another size is compiled as before"
    else:
        assert record["state"] == "partial"
        assert {r["reason"] for r in record["compile"]["regions_uncompiled"]} == {"RuntimeError: no kernel image"}
        assert record["compile"]["regions_compiled"] > 0


@pytest.mark.parametrize("becomes", [RuntimeError("no kernel image"), float("nan")], ids=["raises", "NaN"])
def test_a_step_that_runs_again_has_its_controlnet_again(backend, becomes):
    """The host's UNet takes what a ControlNet gives out of its lists."""
    from models import step, unet_patcher

    def controlled(patcher) -> torch.Tensor:
        deep = torch.full((2, 64, 8, 8), 2.0)
        return step(patcher, control={"middle": [deep], "output": [deep]})

    plain = unet_patcher()
    expected = controlled(plain)
    clone, session, record = compiled_clone(plain)
    for result in session.sampling(lambda: [controlled(clone) for _ in range(3)]):
        torch.testing.assert_close(result, expected)
    calls = []

    def fail(name, result):
        calls.append(name)
        if len(calls) != record["compile"]["regions"]:  # the last of a step, behind what takes from the lists
            return result
        if isinstance(becomes, Exception):
            raise becomes
        return result * becomes

    backend.change = fail
    for result in session.sampling(lambda: [controlled(clone) for _ in range(3)]):
        torch.testing.assert_close(result, expected)
    assert record["state"] in ("partial", "uncompiled"), "it failed"


def test_an_error_outside_compiled_code_is_not_caught(patcher, backend):
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 3)

    session.measuring.by_turns = False
    called = []

    def broken(module, args):
        called.append(module)
        raise ValueError("on purpose")

    last = list(clone.model.diffusion_model.children())[-1]
    with last.register_forward_pre_hook(broken), pytest.raises(ValueError, match="on purpose"):
        sample(session, clone)
    assert len(called) == 1, "the step is not tried again"
    sample(session, clone)
    assert record["state"] == "compiled"


def test_where_no_backend_works_and_the_user_asked_to_stop_the_node_says_so(patcher):
    with using(known(inductor=Proof(False, "no compiler was found.", 0.0))):
        clone, session, record = compiled_clone(patcher, backend="inductor", stop_if_unfit=True)
        with pytest.raises(ModelUnfit, match="no compiler was found"):
            sample(session, clone)
        assert record["state"] == "failed"


def test_stop_if_unfit_stops_every_time_with_the_reason(patcher, backend):
    clone, session, record = compiled_clone(patcher, stop_if_unfit=True)
    backend.change = lambda name, result: pytree.tree_map(lambda x: x * 2, result)
    for _ in range(4):
        with pytest.raises(ModelUnfit, match=r"\(node 7\): .* differs from the uncompiled.*“if it cannot compile”"):
            sample(session, clone, 3)
        assert record["state"] == "failed"
        assert "differs from the uncompiled one" in record["summary"]


def test_a_hook_of_another_node_takes_effect(patcher, backend):
    from models import step

    clone, session, record = compiled_clone(patcher)
    plain = sample(session, clone, 10)
    block = session.blocks[-1].module
    inner = [module for module in block.modules() if isinstance(module, torch.nn.Linear)][-1]
    with inner.register_forward_hook(lambda module, args, output: output + 5):
        expected = step(patcher)
        torch.testing.assert_close(sample(session, clone), expected)
        (uncompiled,) = record["compile"]["regions_uncompiled"]
        assert uncompiled["path"] == session.blocks[-1].path
        assert "another node put a hook on it" in uncompiled["reason"]
    assert not torch.allclose(expected, plain)
    torch.testing.assert_close(sample(session, clone), plain)
    assert record["state"] == "compiled"


def test_weights_that_are_patched_while_they_run_keep_a_block_uncompiled(backend):
    """ComfyUI's partial loading: a LoRA becomes a function on the layer."""
    from models import step, unet_patcher

    patcher = unet_patcher()
    clone, session, record = compiled_clone(patcher)
    plain = sample(session, clone, 10)
    layer = patcher.model.diffusion_model.middle_block[1].transformer_blocks[0].ff.net[2]
    layer.weight_function = [lambda weight: weight * 2]
    expected = step(patcher)
    torch.testing.assert_close(sample(session, clone), expected)
    assert not torch.allclose(expected, plain)
    (uncompiled,) = record["compile"]["regions_uncompiled"]
    assert "only partly loaded" in uncompiled["reason"]
    layer.weight_function = []
    torch.testing.assert_close(sample(session, clone), plain)


def test_another_compile_node_on_the_same_model_is_named(patcher, backend):
    from models import step

    clone, _, record = compiled_clone(patcher)
    clone.add_wrapper_with_key(
        "apply_model", "torch.compile", lambda executor, *args, **kwargs: executor(*args, **kwargs)
    )
    torch.testing.assert_close(step(clone), step(patcher))
    assert record["state"] == "uncompiled"
    assert "TorchCompileModel" in record["summary"]


def test_what_another_node_did_is_not_said_of_a_sampling_without_it(patcher, backend):
    """Nor when that is cancelled before the model is called, and it is compiled when it is called."""
    clone, session, record = compiled_clone(patcher)
    other = clone.clone()
    other.add_wrapper_with_key("apply_model", "torch.compile", lambda executor, *args, **more: executor(*args, **more))
    sample(session, other)
    assert "TorchCompileModel" in record["summary"]

    def cancelled():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.sampling(cancelled)
    assert "TorchCompileModel" not in record["summary"]
    sample(session, clone, 3)
    assert (record["state"], record["compile"]["regions_compiled"]) == ("compiled", len(session.blocks))


def test_a_setting_that_changes_every_step_does_not_compile_every_step(backend, monkeypatch):
    """A block that reads a number of another node: a few values are compiled, then it runs uncompiled."""
    import models
    from comfy.ldm.flux.layers import SingleStreamBlock

    forward = SingleStreamBlock.forward

    def with_gain(self, x, vec, pe, attn_mask=None, modulation_dims=None, transformer_options={}):  # noqa: B006
        return forward(self, x, vec, pe, attn_mask, modulation_dims, transformer_options) * transformer_options.get(
            "gain", 1.0
        )

    monkeypatch.setattr(SingleStreamBlock, "forward", with_gain)
    patcher = models.flux_patcher()
    clone, session, record = compiled_clone(patcher)
    attach(
        clone, AttentionPatch(find_sites(patcher.model.diffusion_model), get_processor("sdpa"), lambda options: None)
    )
    sample(session, clone, 3)
    for gain in range(2, 9):
        expected = models.step(patcher, gain=float(gain))
        torch.testing.assert_close(sample(session, clone, 2, gain=float(gain)), expected, rtol=1e-4, atol=1e-5)
    assert {len(block.graphs) for block in session.blocks} == {1, 4}
    reasons = [r["reason"] for r in record["compile"]["regions_uncompiled"]]
    assert reasons == ["it was compiled for 4 combinations of settings already."] * 3


def test_a_block_that_writes_into_its_input_is_compared_on_a_copy(backend, monkeypatch):
    import models
    from comfy.ldm.flux.layers import SingleStreamBlock

    forward = SingleStreamBlock.forward

    def in_place(self, x, *args, **kwargs):
        result = forward(self, x, *args, **kwargs)
        x.add_(1)
        return result + x

    monkeypatch.setattr(SingleStreamBlock, "forward", in_place)
    patcher = models.flux_patcher()
    plain = models.step(patcher)
    clone, _session, record = compiled_clone(patcher)
    for _ in range(4):
        torch.testing.assert_close(models.step(clone), plain)
    assert record["parity"]["relative"] == 0


def test_a_block_that_writes_into_one_of_two_views_of_the_same_memory_stays_uncompiled(backend, monkeypatch):
    """Compiled code writes when it is done: what it read of the other view by then was the value before. On the small
    inputs of one comparison that need not show."""
    import models
    from comfy.ldm.flux.layers import DoubleStreamBlock

    forward = DoubleStreamBlock.forward

    def writes_at_its_end(self, img, txt, *args, **kwargs):
        result = forward(self, img, txt, *args, **kwargs)
        img.add_(1)
        return result

    monkeypatch.setattr(DoubleStreamBlock, "forward", writes_at_its_end)
    patcher = models.flux_patcher()
    model = patcher.model.diffusion_model
    model.double_blocks[0].register_forward_hook(lambda module, args, output: (output[0], output[0][:, :20]))
    plain = models.step(patcher)
    clone, _session, record = compiled_clone(patcher)
    for _ in range(4):
        torch.testing.assert_close(models.step(clone), plain)
    reasons = {region["path"]: region["reason"] for region in record["compile"]["regions_uncompiled"]}
    assert reasons["double_blocks.1"] == "it writes into one of two inputs that are views of the same memory."


def test_cancel_gets_through_between_blocks(patcher, backend, interrupted):
    from models import step

    clone, _, _ = compiled_clone(patcher, interrupting(interrupted))
    step(clone)
    interrupted.append(True)
    with pytest.raises(Interrupt):
        step(clone)
    interrupted.clear()
    torch.testing.assert_close(step(clone), step(patcher))


def stop_before(backend, interrupted, runs):
    """Cancel, or an error of another node, when so many blocks were compiled."""

    def change(name, result):
        if len(backend.ran) == runs:
            interrupted.append(True)
        return result

    backend.change = change


def test_cancelled_while_compiling_says_how_far_it_came_and_goes_on(patcher, backend, interrupted):
    clone, session, record = compiled_clone(patcher, interrupting(interrupted))
    stop_before(backend, interrupted, 1)
    with pytest.raises(Interrupt):
        sample(session, clone, 3)
    total = len(session.blocks)
    assert record["state"] == "partial"
    assert record["compile"]["stopped"] == {"done": 1, "total": total, "beside": False}
    assert (record["compile"]["regions_compiled"], record["compile"]["regions_uncompiled"]) == (1, [])
    assert record["summary"] == f"stopped at 1/{total} · goes on with the next new picture"
    interrupted.clear()
    backend.change = lambda name, result: result
    sample(session, clone, 3)
    assert (record["state"], record["compile"]["stopped"]) == ("compiled", None)

    def cancelled():
        raise Interrupt

    with pytest.raises(Interrupt):
        session.sampling(cancelled)
    assert (record["state"], record["compile"]["stopped"]) == ("compiled", None), "nothing was left to compile"


def test_cancelled_while_another_combination_compiles_is_not_called_compiled(backend, interrupted):
    """All blocks are compiled without the patch; with it, only the first."""
    import models

    patcher = models.flux_patcher()
    clone, session, record = compiled_clone(patcher, interrupting(interrupted))
    sample(session, clone, 3)
    patched = clone.clone()
    sites = find_sites(patcher.model.diffusion_model)
    attach(patched, AttentionPatch(sites, get_processor("sdpa"), lambda options: None))
    stop_before(backend, interrupted, len(backend.ran) + 1)
    with pytest.raises(Interrupt):
        sample(session, patched, 3)
    assert record["state"] == "partial"
    assert record["compile"]["stopped"] == {"done": 1, "total": 5, "beside": False}
    interrupted.clear()
    sample(session, patched, 3)
    assert record["state"] == "compiled"


@pytest.mark.parametrize("at", ["measuring", "an error while compiling"])
def test_a_run_that_ends_otherwise_before_all_is_compiled_says_so_too(patcher, backend, at):
    clone, session, record = compiled_clone(patcher)

    def broken(module, args):
        if at == "measuring" or backend.ran:
            raise ValueError("on purpose")

    model = patcher.model.diffusion_model
    second = model.double_blocks[1] if hasattr(model, "double_blocks") else model.input_blocks[1][1].proj_in
    with second.register_forward_pre_hook(broken), pytest.raises(ValueError, match="on purpose"):
        sample(session, clone, 3)
    done = 0 if at == "measuring" else 1
    assert record["state"] == ("partial" if done else "idle")
    assert record["compile"]["stopped"] == {"done": done, "total": len(session.blocks), "beside": False}
    assert record["summary"].startswith(f"stopped at {done}/")


@pytest.mark.parametrize("at", ["check_model", "choose_backend"])
def test_cancelled_before_a_step_says_so_and_the_next_run_checks_again(patcher, backend, monkeypatch, at):
    """During the check, and while the compiler starts."""
    from onediff_pack.compilers.session import compiler as compiling
    from onediff_pack.compilers.session import prepared_model as preparing

    def cancelled(*args, **kwargs):
        raise Interrupt

    clone, session, record = compiled_clone(patcher)
    with monkeypatch.context() as patch:
        patch.setattr(preparing if at == "check_model" else compiling, at, cancelled)
        with pytest.raises(Interrupt):
            session.prepare(clone.get_model_object("diffusion_model"))
        assert (record["state"], record["summary"]) == ("idle", "stopped · goes on with the next new picture")
        with pytest.raises(Interrupt):
            sample(session, clone)
        assert (record["state"], record["summary"]) == ("idle", "stopped · goes on with the next new picture")
    sample(session, clone, 3)
    assert record["state"] == "compiled"


def test_while_a_compiler_starts_that_is_what_is_awaited():
    """Inductor takes many seconds in a new process, the check of most models under one."""

    class StartsSlowly(FakeBackend):
        name = "slow start"

        def start_up(self, device):
            shown.append((told[-1]["state"], told[-1]["summary"]))

    import models

    shown: list[tuple[str, str]] = []
    told: list[dict] = []
    slow = StartsSlowly()
    with using(Proofs({slow.name: slow})):
        clone, session, record = compiled_clone(models.unet_patcher(), told=told)
        sample(session, clone, 3)
        assert shown == [("starting", "starting the compiler")]
        assert record["state"] == "compiled"
        first = [state for state, _ in itertools.groupby(data["state"] for data in told)]
        assert first[:2] == ["checking", "starting"] and first.count("starting") == 1, first
        del told[:]
        sample(session, clone, 3)
        assert shown[1:] == [] and "starting" not in [data["state"] for data in told], "it has started"


def test_a_block_that_the_model_never_calls_is_not_called_uncompiled(backend, monkeypatch):
    """PuLID leaves the layers that it added on the model, also when its node is gone."""
    import models

    patcher = models.flux_patcher()
    model = patcher.model.diffusion_model
    model.pulid_ca = torch.nn.ModuleList(Adapter(64) for _ in range(2))
    monkeypatch.setattr(status_record, "MIN_INTERVAL", 0)
    told = []
    clone, session, record = compiled_clone(patcher, told=told)
    sample(session, clone, 3)
    assert len(session.blocks) == 7
    assert {data["progress"]["total"] for data in told if data["progress"]} == {5}, "while it compiles, too"
    assert record["state"] == "compiled"
    assert (record["compile"]["regions"], record["compile"]["regions_compiled"]) == (5, 5)
    assert record["compile"]["regions_uncompiled"] == []
    assert record["compile"]["regions_not_called"] == ["pulid_ca.0", "pulid_ca.1"]
    assert record["summary"].endswith("5 blocks")

    def with_adapter(module, args, kwargs, output):
        return output[0] + model.pulid_ca[0](output[0]), output[1]

    with model.double_blocks[0].register_forward_hook(with_adapter, with_kwargs=True):
        sample(session, clone, 3)
    assert record["compile"]["regions_not_called"] == ["pulid_ca.1"]
    assert "pulid_ca.0" not in {region["path"] for region in record["compile"]["regions_uncompiled"]}
    sample(session, clone, 3)
    assert (record["state"], record["compile"]["regions"]) == ("compiled", 5)


class Adapter(torch.nn.Module):
    """A layer of an adapter, as large as a block."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)

    def forward(self, x):
        return self.second(self.first(x))


def test_the_slower_way_is_given_up(patcher, backend, monkeypatch):

    def time(self, call, wait):
        before = len(backend.ran)
        result = call()
        return result, 30.0 if len(backend.ran) > before else 20.0

    monkeypatch.setattr(timing.Stopwatch, "time", time)
    clone, session, record = compiled_clone(patcher, keep_faster=True)
    sample(session, clone, 10)
    assert record["state"] == "uncompiled"
    assert (record["speed"]["verdict"], record["speed"]["clear"]) == ("same", False), "until five steps agree"
    assert record["summary"].startswith("uncompiled: no clear gain: compiled, it ran 0.67×")
    sample(session, clone, 5)
    assert record["summary"] == "uncompiled: compiled steps took 50 % longer"
    assert record["speed"] | {"steps_ms": None, "steps_kind": None, "steps_size": None} == {
        **dict.fromkeys(("without_ms", "patch_speedup", "total_speedup", "computed")),
        "eager_ms": 20.0,
        "compiled_ms": 30.0,
        "unit": "step",
        "speedup": 0.667,
        "verdict": "slower",
        "per_second": 50.0,
        "steps_ms": None,
        "steps_kind": None,
        "steps_size": None,
        "kept": "uncompiled",
        "clear": True,
        "pairs": 4,
        "spread": [0.667, 0.667],
        "breakeven_images": None,
    }
    ran = len(backend.ran)
    sample(session, clone)
    assert len(backend.ran) == ran
    assert record["compile"]["regions_uncompiled"] == []
    again, other, record = compiled_clone(patcher, keep_faster=True)
    sample(other, again)
    assert record["state"] == "uncompiled"  # known from before: not tried a second time
    assert len(backend.ran) == ran
    sample(session, clone, size=12)
    assert len(backend.ran) > ran, "another size gets its own chance"
    assert record["speed"]["steps_size"][-1] == "2×4×16×16", "the record of the second node"
    sample(other, again, size=12)
    assert record["speed"]["steps_size"][-2:] == ["2×4×16×16", "2×4×12×12"]


def test_equal_times_keep_the_model_uncompiled_and_are_said_to_be_no_gain(patcher, backend, monkeypatch):
    numbers = itertools.cycle([20.0, 20.5])
    monkeypatch.setattr(timing.Stopwatch, "time", lambda self, call, wait: (call(), next(numbers)))
    clone, session, record = compiled_clone(patcher, keep_faster=True)
    sample(session, clone, 40)
    assert (record["state"], record["speed"]["kept"], record["speed"]["clear"]) == ("uncompiled", "uncompiled", False)
    assert record["speed"]["pairs"] == MOST_PAIRS
    assert (record["speed"]["verdict"], record["speed"]["breakeven_images"]) == ("same", None)
    assert re.fullmatch(
        r"uncompiled: no clear gain: compiled, it ran \S+× to \S+× as fast \(the middle half of 16 comparisons\)\.",
        record["summary"],
    )
    ran = len(backend.ran)
    sample(session, clone, 20)
    assert len(backend.ran) == ran + len(session.blocks), "one more pair in each of the next pictures"
    assert record["speed"]["pairs"] == MOST_PAIRS + 1


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


def test_a_block_that_overrides_call_is_compiled_too(backend):
    """Another node's block in diffusers' style; without an explicit forward nothing would reach its compiled code."""
    from models import unet_patcher

    patcher = unet_patcher()
    block = patcher.model.diffusion_model.middle_block[1].transformer_blocks[0]
    own = type(block)
    members = {"__call__": own.forward, "forward": torch.nn.Module.forward}
    called = type("CalledBlock", (own,), members)
    block.__class__ = called
    clone, session, record = compiled_clone(patcher)
    plain = sample(session, clone)
    torch.testing.assert_close(sample(session, clone, steps=3), plain)
    assert record["compile"]["regions_uncompiled"] == []
    assert "CalledBlock" in backend.ran
    assert type(block) is called
    (finding,) = record["check"]["findings"]
    assert (finding["severity"], finding["path"]) == ("note", "middle_block.1.transformer_blocks.0")


def test_an_unknown_or_absent_backend_gives_way_and_says_so(patcher, backend):
    from models import step

    for requested, words in [("oneflow", "oneflow is not available"), ("tensor-rt", "knows no backend 'tensor-rt'")]:
        clone, _, record = compiled_clone(patcher, backend=requested)
        step(clone)
        assert record["backend"]["requested"] == requested
        assert record["backend"]["used"] == "counting"
        assert words in record["backend"]["reason"]


def test_a_session_that_a_later_one_replaced_says_so_until_it_samples_itself(patcher, backend):
    clone, session, record = compiled_clone(patcher)
    session.prepare(clone.get_model_object("diffusion_model"))
    sample(session, clone, 3)
    assert record["state"] == "compiled"
    session.give_way("14")
    assert record["state"] == "idle"
    assert record["summary"] == "left to the later node 14"
    sample(session, clone)  # the model also goes to a sampler of its own
    assert record["state"] == "compiled"
    assert record["backend"]["replaced_by"] is None


class Caching:
    """Another node that lets a Flux skip all blocks but the first in some of its steps, by the way of First Block
    Cache, with a clock by which blocks are as fast compiled as uncompiled, or ``gain`` times."""

    def __init__(self, monkeypatch, backend, session, clone, gain=1.0, part=90.0):
        self.backend, self.session, self.clone, self.gain, self.full = backend, session, clone, gain, True
        self.part = part
        self.model = clone.model.diffusion_model
        noise = itertools.cycle([1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.01])
        monkeypatch.setattr(timing.Stopwatch, "time", lambda watch, call, wait=True: self.time(call, next(noise)))

    def time(self, call, noise):
        ran = len(self.backend.ran)
        result = call()
        way = 1 if len(self.backend.ran) > ran else self.gain
        return result, (400.0 if self.full else self.part) * way * noise

    def sample(self, steps, period=1, clock=None, blocks=True, pattern=None, after=lambda: None):
        """A sampling in which each step whose number is a multiple of ``period``, or that is a 1 of the ``pattern``,
        takes its full time, and the others a part of it: without most ``blocks``, or with all."""
        from models import step

        def steps_of_it(ended=lambda: None):
            for number in range(steps):
                self.full = pattern[number % len(pattern)] == "1" if pattern else number % period == 0
                with contextlib.ExitStack() as skipped:
                    if not self.full and blocks:
                        first, none = torch.nn.ModuleList(self.model.double_blocks[:1]), torch.nn.ModuleList()
                        skipped.enter_context(unittest.mock.patch.object(self.model, "double_blocks", first))
                        skipped.enter_context(unittest.mock.patch.object(self.model, "single_blocks", none))
                    step(self.clone)
                ended()
                after()

        self.session.sampling(steps_of_it) if clock is None else steps_of_it(clock.step_ended)


@pytest.fixture
def flux():
    import models

    return models.flux_patcher()


@pytest.mark.parametrize("period", [2, 3, 4])
def test_steps_in_which_another_node_skips_blocks_are_no_gain(flux, backend, monkeypatch, period):
    clone, session, record = compiled_clone(flux, keep_faster=True)
    caching = Caching(monkeypatch, backend, session, clone)
    for _picture in range(3):
        caching.sample(40, period)
    assert record["speed"]["pairs"] > 0
    assert record["speed"]["speedup"] in (None, pytest.approx(1, abs=0.05)), "None while it is not clear"
    assert record["speed"]["verdict"] in (None, "same")
    assert 1000 / record["speed"]["per_second"] == pytest.approx((400 + (period - 1) * 90) / period, rel=0.2)
    again, other, record = compiled_clone(flux, keep_faster=True)
    Caching(monkeypatch, backend, other, again).sample(12)
    assert 1000 / record["speed"]["per_second"] == pytest.approx(400, rel=0.03), "another workflow, without that node"
    assert record["speed"]["eager_ms"] == pytest.approx(400, rel=0.03)


@pytest.mark.parametrize("period", [2, 3])
def test_steps_that_another_node_makes_cheap_inside_the_blocks_are_no_gain(flux, backend, monkeypatch, period):
    """All blocks run in each step; what they call is kept from one step for the next (pyramid attention broadcast)."""
    clone, session, record = compiled_clone(flux)
    caching, pairs = Caching(monkeypatch, backend, session, clone), []
    for _picture in range(3):
        caching.sample(20, period, blocks=False)
        pairs.append(record["speed"]["pairs"])
        assert (record["speed"]["speedup"], record["speed"]["verdict"]) == (None, None)
        assert "×" not in record["summary"]
    assert max(pairs) > 1


#: Periods 5 and 7 are in step with the fixed order that was, 6 and 8 with the first that is drawn.
@pytest.mark.parametrize("pattern", ["10", "001", "11010", "100110", "0101011", "01011010"])
@pytest.mark.parametrize("part", [90.0, 155.0, 265.0])
def test_no_ratio_is_shown_where_another_node_makes_some_steps_longer(flux, backend, monkeypatch, pattern, part):
    clone, session, record = compiled_clone(flux, keep_faster=True)
    caching, seen = Caching(monkeypatch, backend, session, clone, part=part), []
    for _picture in range(2):
        caching.sample(
            20, blocks=False, pattern=pattern, after=lambda: (session.publish(), seen.append(dict(record["speed"])))
        )
    assert [speed["speedup"] for speed in seen if speed["speedup"] is not None] == []
    assert not {speed["verdict"] for speed in seen} & {"faster", "slower"}
    assert not any(speed["clear"] for speed in seen)


@pytest.mark.parametrize("gain", [1.3, 1.1, 0.8])
@pytest.mark.parametrize("keep_faster", [True, False])
def test_steps_that_are_alike_show_their_ratio_in_a_first_picture_of_twenty(
    flux, backend, monkeypatch, gain, keep_faster
):
    clone, session, record = compiled_clone(flux, keep_faster=keep_faster)
    seen = []
    Caching(monkeypatch, backend, session, clone, gain=gain).sample(
        20, after=lambda: (session.publish(), seen.append(record["speed"]["speedup"]))
    )
    assert seen[:9] == [None] * 9, "four pairs have not decided yet"
    assert record["speed"]["speedup"] == pytest.approx(gain, rel=0.03)
    assert (record["speed"]["verdict"], record["speed"]["clear"]) == ("faster" if gain > 1 else "slower", True)


def test_a_gain_beside_skipped_blocks_is_kept(flux, backend, monkeypatch):
    clone, session, record = compiled_clone(flux, keep_faster=True)
    Caching(monkeypatch, backend, session, clone, gain=1.2).sample(60, period=3)
    assert (record["state"], record["speed"]["kept"]) == ("compiled", "compiled")
    assert record["speed"]["speedup"] == pytest.approx(1.2, abs=0.03)
    assert record["speed"]["verdict"] == "faster"
    assert record["speed"]["breakeven_images"] is not None


def test_a_gain_within_noise_is_none_and_never_earned_back(flux, backend, monkeypatch):
    clone, session, record = compiled_clone(flux)
    Caching(monkeypatch, backend, session, clone, gain=1.01).sample(40, period=1)
    assert record["speed"]["kept"] == "compiled"
    assert (record["speed"]["verdict"], record["speed"]["breakeven_images"]) == ("same", None)
    assert record["summary"].startswith("compiled, no gain · ")


def test_what_was_decided_beside_skipped_blocks_is_decided_anew_without_them(flux, backend, monkeypatch):
    """Nearly all steps were cheap, and lost by compiling; then the caching node is removed, and full steps gain."""
    clone, session, record = compiled_clone(flux, keep_faster=True)
    caching = Caching(monkeypatch, backend, session, clone, gain=0.8)
    caching.sample(60, period=60)
    assert record["state"] == "uncompiled"
    caching.gain = 1.3
    caching.sample(30)
    assert record["state"] == "compiled"
    assert record["speed"]["speedup"] == pytest.approx(1.3, abs=0.03)
    again, other, record = compiled_clone(flux, keep_faster=True)
    Caching(monkeypatch, backend, other, again, gain=1.3).sample(6)
    assert record["state"] == "compiled", "known from before"


def test_a_decision_goes_with_what_is_on_the_model(flux, backend, monkeypatch):
    """The same node, whose model goes to a sampler directly and to another behind a node that changes a block."""
    clone, session, record = compiled_clone(flux, keep_faster=True)
    caching = Caching(monkeypatch, backend, session, clone, gain=0.8)
    caching.sample(12)
    assert record["state"] == "uncompiled"
    block, caching.gain = caching.model.single_blocks[0], 1.3
    changed = types.MethodType(lambda self, *args, **kwargs: type(self).forward(self, *args, **kwargs), block)
    with unittest.mock.patch.object(block, "forward", changed):
        caching.sample(14)
        assert record["state"] == "compiled"
    caching.sample(3)
    assert record["state"] == "uncompiled"


@pytest.mark.parametrize("gain", [1.5, 0.7])
def test_figures_that_the_last_steps_contradict_leave_the_line(flux, backend, monkeypatch, gain):
    clone, session, record = compiled_clone(flux, keep_faster=True)
    caching = Caching(monkeypatch, backend, session, clone, gain=gain)
    caching.sample(15)
    assert record["speed"]["speedup"] == pytest.approx(gain, abs=0.03)
    times = caching.time
    caching.time = lambda call, noise: (lambda result, ms: (result, ms / 4.5))(*times(call, noise))
    caching.sample(40)
    speed = record["speed"]
    way, other = ("compiled_ms", "eager_ms") if gain > 1 else ("eager_ms", "compiled_ms")
    now = 400 / 4.5 * (1 if gain > 1 else gain)
    assert (speed[way], 1000 / speed["per_second"]) == (pytest.approx(now, rel=0.03),) * 2
    assert [speed[name] for name in (other, "speedup", "verdict", "spread", "breakeven_images")] == [None] * 5
    assert speed["kept"] == ("compiled" if gain > 1 else "uncompiled")


def test_the_speed_report_compares_steps_that_ran_the_same_blocks(flux, backend, monkeypatch):
    """Uncompiled steps and compiled ones, two of which were left out because they compiled or ran uncompiled."""
    clone, session, _record = compiled_clone(flux)
    session.measuring.by_turns = False
    caching = Caching(monkeypatch, backend, session, clone)
    compiled = StepClock(session.device, lambda: session.step_was_compiled, lambda: session.measuring.work)
    attach(clone, compiled)
    caching.sample(8, period=2, clock=compiled)
    plain = flux.clone()
    counter = BlockCounter(session.blocks)
    uncompiled = StepClock(session.device, work=counter.work)
    for wrapper in (uncompiled, counter):
        attach(plain, wrapper)
    caching.clone = plain
    caching.sample(8, period=2, clock=uncompiled)
    full, cheap = ((1, 1, 1, 1, 1),), ((1, 0, 0, 0, 0),)
    assert uncompiled.works == [full, cheap] * 4
    assert compiled.works[-5:] == [cheap, full, cheap, full, cheap]
    assert compiled.left_out > 0
    samplings = [Sampling(c is compiled, tuple(c.steps_ms), tuple(c.works)) for c in (uncompiled, compiled)]
    assert SpeedReport(tuple(samplings), 8).speedup == pytest.approx(1, abs=0.03)


def test_what_two_patches_gain_is_added_up():
    """Each tells what a whole step takes, in which the other is at work too."""
    from onediff_pack.compilers.session.state import SessionState

    def patch(before, after):
        gain = {"before_ms": before, "after_ms": after, "speedup": before / after}
        return types.SimpleNamespace(sites=["a"], gain=gain)

    state = types.SimpleNamespace(patches=[patch(150.0, 100.0), patch(130.0, 100.0)])
    assert vars(SessionState)["patch_speedup"].fget(state) == pytest.approx(1.8), "180 ms without both"
