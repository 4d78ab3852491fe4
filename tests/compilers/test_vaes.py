"""VAEs of every class that ComfyUI loads, through the inductor backend with Inductor itself left out: pictures are as
without it, and the third size compiles nothing that the first two did not. All of them with ``test.py --all``."""

from __future__ import annotations

import importlib
import time

import host_classes
import pytest
import torch
from onediff_pack.compilers import CallSession
from onediff_pack.compilers.blocks.parity import compare
from onediff_pack.compilers.measuring.cleared import CLEARED
from onediff_pack.compilers.session.calls import call_session
from onediff_pack.compilers.session.calls.whole import is_right
from onediff_pack.compilers.session.failures import ModelUnfit

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
vaes, vae_kinds = importlib.import_module("vaes"), importlib.import_module("vae_kinds")

pytestmark = pytest.mark.usefixtures("host", "one_pair")

TOLERANCE = 1e-4

#: One of each way in which blocks are called; the others with ``scripts/test.py --all``.
ORDINARY = ("SD", "Wan 2.1")

#: Blocks that no graph holds: start of the path, and words of the reason.
UNCOMPILED = {
    "Wan 2.1": {"decoder.upsamples.": "non-Tensor"},  # it compares a tensor with a word
    "Wan 2.2": {"decoder.upsamples.": "non-Tensor"},
}

#: Where nothing is compiled, and why.
NOTHING = {
    "LTX": "marked as skipped",  # what it keeps, it keeps by thread
    "Stable Audio": "builtin operator",
    "Pixel space": "no part",
    "SeedVR2": "dictionary",  # its layers keep frames in one, each by itself
}

#: Where larger sizes are other code: frames are compressed, or squeezed into one.
MORE_SIZES = {"CogVideoX", "Cascade C"}


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def plain(model, name, given, **options):
    with torch.inference_mode():
        return getattr(model, name)(given.clone(), **options)


def own_forwards(model):
    return [path for path, module in model.named_modules() if "forward" in module.__dict__]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ORDINARY else pytest.mark.long) for name in vaes.VAES]
)
def test_every_class_gives_its_own_picture(name, inductor):
    vae = vaes.VAES[name]
    model = vae.model()
    session, record = vaes.session_on(model)
    session.measuring.by_turns = False
    for method, shapes in (("decode", vae.latents), ("encode", vae.pixels)):
        graphs = []
        options = vae.options if method == "decode" else {}
        for shape in shapes:
            given = vaes.numbers(shape)
            expected = plain(model, method, given, **options)
            assert expected.isfinite().all() and expected.std() > 0
            for _ in range(2):
                runs = inductor.runs
                with vaes.used(session, model) as run:
                    result = run(method, given.clone(), **options)
                assert relative(result, expected) <= TOLERANCE
                assert name in NOTHING or (name, method) == ("Cascade C", "decode") or inductor.runs > runs
            graphs.append(inductor.graphs)
            left = {found["path"]: found["reason"] for found in record["compile"]["regions_uncompiled"]}
            if name in NOTHING:
                assert NOTHING[name] in record["summary"] + "".join(left.values())
                continue
            known = UNCOMPILED.get(name, {})
            assert all(any(path.startswith(at) and known[at] in why for at in known) for path, why in left.items())
        if len(graphs) == 3 and name not in MORE_SIZES:
            assert graphs[2] == graphs[1]
    assert own_forwards(model) == []


def test_every_exception_names_a_vae():
    assert {*ORDINARY, *UNCOMPILED, *NOTHING, *MORE_SIZES} <= {*vaes.VAES}


def test_all_that_comfyui_makes_is_here_or_has_a_reason():
    import comfy.sd

    known = host_classes.made_by(comfy.sd, comfy.sd.VAE)
    built = set().union(*(host_classes.classes_in(vae.make()) for vae in vaes.VAES.values()))
    assert len(known) > 30
    assert {host_classes.full_name(kind) for kind in known - built} == set(vae_kinds.NOT_BUILT)


@pytest.fixture
def small(inductor):
    """ComfyUI's VAE, a copy that is compiled, its session and record."""
    vae = vaes.small_vae()
    session, record = vaes.session_on(vae.first_stage_model)
    session.measuring.by_turns = False
    return vae, vaes.with_session(vae, session), session, record


LATENT = (1, 4, 16, 16)


def both(vae, copied, method, *args, **kwargs):
    with torch.inference_mode():
        return getattr(vae, method)(*args, **kwargs), getattr(copied, method)(*args, **kwargs)


@pytest.mark.parametrize("video", [False, pytest.param(True, marks=pytest.mark.long)])
def test_decode_encode_and_tiles_of_comfyuis_vae(video, inductor):
    vae = vaes.wan_vae() if video else vaes.small_vae()
    session, record = vaes.session_on(vae.first_stage_model)
    session.measuring.by_turns = False
    copied = vaes.with_session(vae, session)
    latent = vaes.numbers((1, 16, 3, 8, 8) if video else LATENT)
    pixels = torch.rand((9, 64, 64, 3) if video else (2, 64, 48, 3))
    tiles = {"tile_x": 4, "tile_y": 4, "overlap": 1} if video else {"tile_x": 8, "tile_y": 8, "overlap": 2}
    pixel_tiles = {name: 8 * size for name, size in tiles.items()}
    for _ in range(2):
        for method, given, how in (
            ("decode", latent, {}),
            ("encode", pixels, {}),
            ("decode_tiled", latent, tiles),
            ("encode_tiled", pixels, pixel_tiles),
        ):
            runs = inductor.runs
            expected, result = both(vae, copied, method, given, **how)
            torch.testing.assert_close(result, expected)
            assert inductor.runs > runs, method
    assert record["parity"]["passed"]


def test_the_vae_that_others_use_stays_as_it_is(small, inductor):
    vae, copied, _, _ = small
    before = dict(vae.__dict__)
    with torch.inference_mode():
        copied.decode(vaes.numbers(LATENT))
        assert vae.__dict__ == before
        assert type(vae).__module__ == "comfy.sd" and not hasattr(vae, "onediff_session")
        assert copied.first_stage_model is vae.first_stage_model and copied.patcher is vae.patcher
        assert own_forwards(vae.first_stage_model) == []
        runs = inductor.runs
        vae.decode(vaes.numbers(LATENT))
    assert inductor.runs == runs, "the same VAE without the node stays plain"
    assert isinstance(copied, type(vae))


def test_a_lora_takes_effect_and_compiles_nothing(small, inductor):
    vae, copied, _, record = small
    latent = vaes.numbers(LATENT)
    with torch.inference_mode():
        without = vae.decode(latent)
        copied.decode(latent)
        graphs, recompiles = inductor.graphs, [*record["compile"]["recompiles"]]
        weights = {name: w for name, w in vae.first_stage_model.state_dict().items() if w.ndim == 4}
        noise = {name: ("diff", (0.1 * vaes.numbers(tuple(w.shape)),)) for name, w in weights.items()}
        patched = vae.patcher.clone()
        assert patched.add_patches(noise, 1.0)
        for one in (vae, copied):
            one.patcher = patched
        expected, runs = vae.decode(latent), inductor.runs
        result = copied.decode(latent)
    torch.testing.assert_close(result, expected)
    assert relative(result, without) > 0.01
    assert inductor.runs > runs
    assert (inductor.graphs, record["compile"]["recompiles"]) == (graphs, recompiles)


def no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("there is no room")


def test_a_compiled_decode_without_memory_runs_uncompiled(small, inductor):
    vae, copied, session, record = small
    latent = vaes.numbers(LATENT)
    with torch.inference_mode():
        copied.decode(latent)
        inductor.ran = no_memory
        expected, result = vae.decode(latent), copied.decode(latent)
        torch.testing.assert_close(result, expected)
        assert record["state"] == "uncompiled" and "out of memory" in record["summary"]
        assert not any(block.reason for block in session.blocks), "no failure of compiling"
        inductor.ran = lambda gm: None
        runs = inductor.runs
        copied.decode(vaes.numbers((1, 4, 8, 8)))
    assert inductor.runs > runs, "smaller ones go on compiled"


def test_comfyuis_way_from_no_memory_to_tiles_is_kept(small, inductor, monkeypatch):
    vae, copied, session, record = small
    model = vae.first_stage_model
    whole = type(model).decode

    short = [True]

    def decode(self, z, **kwargs):
        if short.pop() if short else False:
            no_memory()
        return whole(self, z, **kwargs)

    monkeypatch.setattr(type(model), "decode", decode)
    latent = vaes.numbers((1, 4, 8, 72))
    with torch.inference_mode():
        expected = vae.decode(latent)
        short.append(True)
        result = copied.decode(latent)
    torch.testing.assert_close(result, expected)
    assert inductor.runs > 0, "the tiles are compiled"
    assert record["state"] == "compiled"
    assert not any(block.reason for block in session.blocks)


def test_no_memory_for_repeating_it_is_no_failure_either(small, inductor):
    vae, copied, session, record = small
    inductor.ran = no_memory
    expected, result = both(vae, copied, "decode", vaes.numbers(LATENT))
    torch.testing.assert_close(result, expected)
    assert "out of memory" in record["summary"]
    assert not any(block.reason for block in session.blocks)


def test_a_block_that_is_wrong_runs_uncompiled_and_the_picture_is_right(small, inductor):
    vae, copied, _, record = small

    def spoil(gm):
        node = next(node for node in gm.graph.nodes if node.op == "output")
        with gm.graph.inserting_before(node):
            wrong = gm.graph.call_function(torch.mul, (node.args[0][0], 1.5))
        node.args = ((wrong, *node.args[0][1:]),)
        gm.recompile()

    inductor.spoil = spoil
    for _ in range(2):
        expected, result = both(vae, copied, "decode", vaes.numbers(LATENT))
        torch.testing.assert_close(result, expected)
    assert record["state"] == "uncompiled"
    assert record["parity"]["passed"] is False


def test_what_keeps_something_between_its_blocks_runs_uncompiled(small, inductor):
    """Each block alone is right, and the whole is not: the picture before shows in it."""
    vae, copied, _, record = small
    model = vae.first_stage_model
    whole, kept = model.decode, []

    def decode(z, **kwargs):
        kept.append(z.mean())
        return whole(z, **kwargs) + len(kept)

    model.__dict__["decode"] = decode
    with torch.inference_mode():
        result = copied.decode(vaes.numbers(LATENT))
    kept.clear()
    with torch.inference_mode():
        torch.testing.assert_close(result, vae.decode(vaes.numbers(LATENT)))
    assert record["state"] == "uncompiled" and "as a whole" in record["summary"]


def test_a_compiler_that_fails_costs_no_picture(small, inductor, monkeypatch):
    vae, copied, _, record = small

    def fails(gm):
        raise RuntimeError("no compiler today")

    inductor.spoil = fails
    expected, result = both(vae, copied, "decode", vaes.numbers(LATENT))
    torch.testing.assert_close(result, expected)
    assert record["state"] == "uncompiled" and "no compiler today" in record["summary"]


def test_nor_does_one_that_fails_later(small, inductor):
    vae, copied, _, record = small
    both(vae, copied, "decode", vaes.numbers(LATENT))

    def fails(gm):
        raise RuntimeError("gone")

    inductor.ran = fails
    expected, result = both(vae, copied, "decode", vaes.numbers(LATENT))
    torch.testing.assert_close(result, expected)
    assert "gone" in str(record["compile"]["regions_uncompiled"])


def test_nan_of_compiled_code_is_computed_again(small, inductor, monkeypatch):
    vae, copied, _, record = small
    both(vae, copied, "decode", vaes.numbers(LATENT))
    monkeypatch.setattr(CallSession, "_pass", lambda self, run, inputs: nan(self, run, inputs))

    def nan(self, run, inputs):
        self.step.ran_compiled = True
        return run(*inputs[0], **inputs[1]) * float("nan")

    expected, result = both(vae, copied, "decode", vaes.numbers(LATENT))
    torch.testing.assert_close(result, expected)
    assert "NaN" in record["summary"]


def test_cancel_while_it_compiles_ends_the_run(inductor):
    class Cancelled(Exception):
        pass

    pressed = []

    def check():
        if pressed:
            raise Cancelled

    vae = vaes.small_vae()
    session, _ = vaes.session_on(vae.first_stage_model, check_interrupt=check, interruption=Cancelled)
    copied = vaes.with_session(vae, session)
    inductor.spoil = pressed.append
    with torch.inference_mode(), pytest.raises(Cancelled):
        copied.decode(vaes.numbers(LATENT))
    assert own_forwards(vae.first_stage_model) == []
    assert copied.first_stage_model is vae.first_stage_model


def test_stop_says_which_node_and_why(inductor):
    def fails(gm):
        raise RuntimeError("no compiler today")

    inductor.spoil = fails
    vae = vaes.small_vae()
    session, record = vaes.session_on(vae.first_stage_model, stop_if_unfit=True)
    with torch.inference_mode(), pytest.raises(ModelUnfit, match=r"OneDiff Compile VAE \(node 7\).*no compiler today"):
        vaes.with_session(vae, session).decode(vaes.numbers(LATENT))
    assert record["state"] == "failed"


@pytest.mark.parametrize("faster", [True, False])
def test_what_is_faster_is_kept_within_the_first_picture(faster, inductor, monkeypatch):
    """Waiting stands in for computing: in uncompiled blocks, or in compiled ones."""
    monkeypatch.setattr(CallSession, "seconds", 30.0)
    kind = type(vaes.VAES["SD"].model().decoder.mid.block_1)
    forward = kind.forward

    def waits(self, *args, **kwargs):
        if faster and not torch.compiler.is_compiling():
            time.sleep(0.004)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", waits)
    if not faster:
        inductor.ran = lambda gm: time.sleep(0.004)
    vae = vaes.small_vae()
    session, record = vaes.session_on(vae.first_stage_model, plans=True)
    session.plans = session.skips_classes_without_gain = False  # whole decodes are compared here
    copied = vaes.with_session(vae, session)
    expected, result = both(vae, copied, "decode", vaes.numbers(LATENT))
    torch.testing.assert_close(result, expected)
    assert record["speed"]["kept"] == ("compiled" if faster else "uncompiled")
    assert record["speed"]["verdict"] == ("faster" if faster else "slower")
    assert record["state"] == ("compiled" if faster else "uncompiled")
    runs = inductor.runs
    both(vae, copied, "decode", vaes.numbers(LATENT))
    assert (inductor.runs > runs) is faster


def test_on_a_cpu_blocks_are_timed_in_the_first_picture_and_left_where_nothing_is_gained(inductor):
    vae = vaes.small_vae()
    inductor.ran = lambda gm: time.sleep(0.01)
    session, record = vaes.session_on(vae.first_stage_model, plans=True)
    expected, result = both(vae, vaes.with_session(vae, session), "decode", vaes.numbers(LATENT))
    torch.testing.assert_close(result, expected)
    assert record["state"] == "uncompiled" and "no gain" in record["summary"]


def test_random_numbers_go_on_as_without_it(small):
    vae, copied, _, _ = small
    model = vae.first_stage_model
    whole = model.decode
    model.__dict__["decode"] = lambda z, **kwargs: whole(z + torch.randn_like(z), **kwargs)
    drawn = []
    for one in (vae, copied):
        torch.manual_seed(1)
        with torch.inference_mode():
            drawn.append((one.decode(vaes.numbers(LATENT)), torch.rand(1)))
    torch.testing.assert_close(drawn[0], drawn[1])


def test_another_node_on_the_same_vae_takes_over(small):
    vae, copied, _, _ = small
    again = vaes.with_session(copied, vaes.session_on(vae.first_stage_model)[0])
    assert type(again) is type(copied)
    expected, result = both(vae, again, "decode", vaes.numbers(LATENT))
    torch.testing.assert_close(result, expected)


def test_where_nothing_new_may_be_compiled_a_size_costs_one_run_more_and_no_other(inductor):
    vae = vaes.small_vae()
    session, record = vaes.session_on(vae.first_stage_model, compile_seconds=0.0)
    copied, runs = vaes.with_session(vae, session), []
    whole = vae.first_stage_model.decode
    vae.first_stage_model.__dict__["decode"] = lambda z, **kwargs: runs.append(1) or whole(z, **kwargs)
    counted = []
    for _ in range(3):
        with torch.inference_mode():
            copied.decode(vaes.numbers(LATENT))
        counted.append(len(runs))
    assert counted == [2, 3, 4]
    assert inductor.graphs == 0 and "nothing new is compiled" in record["summary"]


def test_a_fault_of_this_pack_costs_no_picture(small, monkeypatch):
    vae, copied, session, record = small
    monkeypatch.setattr(session, "_give_gains", lambda functions: 1 / 0)
    expected, result = both(vae, copied, "decode", vaes.numbers(LATENT))
    torch.testing.assert_close(result, expected)
    assert record["state"] == "uncompiled" and "could not be watched" in record["summary"]


def test_a_fault_of_the_vae_itself_is_told_as_it_is(small):
    _, copied, _, _ = small
    with torch.inference_mode(), pytest.raises(RuntimeError, match="channels"):
        copied.decode(vaes.numbers((1, 5, 16, 16)))
    assert own_forwards(copied.first_stage_model) == []


def test_a_picture_that_is_a_tenth_off_is_not_kept_in_bfloat16_either(inductor):
    vae = vaes.small_vae()
    model, calls = vae.first_stage_model.to(torch.bfloat16), []
    vae.vae_dtype = torch.bfloat16
    whole = model.decode
    model.__dict__["decode"] = lambda z, **kwargs: whole(z, **kwargs) * (1.1 if calls else calls.append(1) or 1.0)
    session, record = vaes.session_on(model)
    with torch.inference_mode():
        vaes.with_session(vae, session).decode(vaes.numbers(LATENT))
    assert record["state"] == "uncompiled" and "as a whole" in record["summary"]


@pytest.fixture
def own_marks(monkeypatch):
    monkeypatch.setattr(CLEARED, "marks", CLEARED.marks)


def test_calls_that_reached_no_block_are_looked_at_anew_after_measurements_were_cleared(small, inductor, own_marks):
    _, copied, _, _ = small
    model, given = copied.first_stage_model, vaes.numbers(LATENT)
    whole, without = model.decode, [True]
    model.__dict__["decode"] = lambda z, **kwargs: z.new_ones((1, 3, 64, 64)) if without else whole(z, **kwargs)
    with torch.inference_mode():
        copied.decode(given)
        without.clear()
        CLEARED.clear_measurements()
        copied.decode(given)
    assert inductor.runs > 0


@pytest.mark.parametrize("while_cloning", [True, False])
def test_no_memory_to_compare_both_ways_is_not_said_of_compiled_code(while_cloning, small, inductor, monkeypatch):
    vae, copied, session, record = small
    model = vae.first_stage_model
    whole, short = type(model).decode, [False, True]

    def decode(self, z, **kwargs):
        if short.pop(0) if short else False:
            no_memory()
        return whole(self, z, **kwargs)

    with monkeypatch.context() as patch:
        if while_cloning:
            patch.setattr(call_session, "clone_inputs", no_memory)
        else:
            patch.setattr(type(model), "decode", decode)
        with torch.inference_mode():
            result = copied.decode(vaes.numbers(LATENT))
    expected, _ = both(vae, vae, "decode", vaes.numbers(LATENT))
    torch.testing.assert_close(result, expected)
    assert record["state"] == "uncompiled"
    assert "there was not enough memory to compare both ways" in record["summary"], record["summary"]
    assert not any(block.reason for block in session.blocks)
    runs = inductor.runs
    both(vae, copied, "decode", vaes.numbers((1, 4, 8, 8)))
    assert inductor.runs > runs, "smaller ones go on compiled"


@pytest.mark.parametrize(
    ("dtype", "kept", "not_kept"),
    [(torch.float32, 3e-4, 5e-4), (torch.float16, 0.015, 0.025), (torch.bfloat16, 0.024, 0.05)],
)
def test_how_far_a_whole_result_may_be_off(dtype, kept, not_kept):
    right = vaes.numbers((100, 100)).to(dtype)
    off = [is_right(compare((right.double() * (1 + by)).to(dtype), right)) for by in (kept, not_kept)]
    assert off == [True, False]
