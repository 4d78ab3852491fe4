"""ControlNets of each kind that ComfyUI loads, through the inductor backend with Inductor itself left out: what they
give is as without it, in chains, with any strength and range, and no change of those compiles anything."""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace
from typing import Any

import host_classes
import pytest
import torch

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
controls = importlib.import_module("controls")

pytestmark = pytest.mark.usefixtures("host", "one_pair")

TOLERANCE = 1e-4

#: With ``scripts/test.py --all``: one that is as large as the original, and those that are made much like another.
LONG = {
    *("Stable Cascade", "SD 3.5", "SD 3.5, large", "T2I-Adapter light"),
    *("Flux, union", "Qwen, Fun", "Hunyuan DiT"),
}


def compiled(control: Any, **settings: Any) -> tuple[Any, Any, Any]:
    session, record = controls.session_on(control, **settings)
    session.measuring.by_turns = False
    return controls.with_session(control, session), session, record


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in controls.CONTROLS]
)
def test_every_kind_gives_its_own_result_and_two_sizes_are_enough(name, inductor):
    kind = controls.CONTROLS[name]
    control, base = kind.make(), kind.base()
    copied, _, record = compiled(control)
    graphs = []
    for size in (16, 32, 24):
        for _ in range(2):
            runs = inductor.runs
            result = controls.sampled(kind, base, [copied], size)
            assert controls.difference(result, controls.sampled(kind, base, [control], size)) <= TOLERANCE
            assert inductor.runs > runs
        graphs.append(inductor.graphs)
    assert graphs[2] == graphs[1], "two sizes are all that it takes"
    assert record["state"] == "compiled", record["summary"]
    assert record["compile"]["regions_uncompiled"] == []
    assert record["parity"]["passed"]


def test_all_that_comfyui_makes_is_here():
    import comfy.controlnet

    known = host_classes.made_by(comfy.controlnet, kinds=(torch.nn.Module, comfy.controlnet.ControlBase))
    built = set().union(*(host_classes.classes_in(kind.make()) for kind in controls.CONTROLS.values()))
    assert len(known) > 12
    assert sorted(host_classes.full_name(kind) for kind in known - built) == []


def of(kind):
    control = kind.make()
    return kind, kind.base(), control, *compiled(control)


@pytest.fixture
def net(inductor):
    return of(controls.SMALL)


def test_strength_and_range_change_nothing_that_is_compiled(net, inductor):
    kind, base, control, copied, _, _ = net
    controls.sampled(kind, base, [copied])
    graphs, results = inductor.graphs, []
    for strength, percents in ((1.0, (0.0, 1.0)), (0.3, (0.0, 1.0)), (1.0, (0.4, 1.0)), (1.7, (0.0, 0.3))):
        how = {"strength": strength, "percents": percents, "steps": 3}
        results.append(controls.sampled(kind, base, [copied], **how))
        assert controls.difference(results[-1], controls.sampled(kind, base, [control], **how)) <= TOLERANCE
    assert inductor.graphs == graphs
    assert controls.difference(results[1], results[0]) > 0.1
    assert results[2][0] == {} and results[3][2] == {}, "outside of its range it gives nothing"


def test_one_in_whose_range_no_step_lies_was_not_used(net):
    kind, base, _, copied, _, record = net
    controls.sampled(kind, base, [copied], percents=(0.98, 0.99), steps=2)
    assert record.sampled_at == float("-inf"), "the prompt's end says that nothing called it"
    controls.sampled(kind, base, [copied], steps=2)
    assert record.sampled_at > 0


@pytest.mark.parametrize("one_node", [True, False])
def test_chains_of_several(one_node, inductor):
    """The same one twice, and one of another kind; each behind a node of its own, or all behind one."""
    kind, base, control, copied, session, _ = of(controls.CONTROLS["ControlNet"])
    lora = controls.lora()
    chain = [copied, copied if one_node else compiled(control)[0], compiled(lora)[0]]
    for _ in range(2):
        runs = inductor.runs
        result = controls.sampled(kind, base, chain)
        assert controls.difference(result, controls.sampled(kind, base, [control, control, lora])) <= TOLERANCE
        assert inductor.runs > runs
    assert not session.during.now


def test_what_others_use_stays_as_it_is(net, inductor):
    kind, base, control, copied, _, _ = net
    before = dict(control.__dict__)
    controls.sampled(kind, base, [copied])
    assert {**control.__dict__} == before
    assert not hasattr(control, "onediff_shared")
    assert isinstance(copied, type(control)) and copied.control_model is control.control_model
    assert not [module for module in control.control_model.modules() if "forward" in module.__dict__]
    runs = inductor.runs
    controls.sampled(kind, base, [control])
    assert inductor.runs == runs


def test_a_control_lora_is_compiled_once_for_all_samplings_and_keeps_no_weights_between(inductor):
    kind = controls.CONTROLS["ControlLoRA"]
    lora, base = kind.make(), kind.base()
    copied, session, record = compiled(lora)
    graphs = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        for parameter in base.diffusion_model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        result = controls.sampled(kind, base, [copied])
        assert controls.difference(result, controls.sampled(kind, base, [lora])) <= TOLERANCE, "the model's new weights"
        graphs.append(inductor.graphs)
        assert not [weight for weight in session.module.parameters() if weight is not None]
    assert graphs == graphs[:1] * 3
    assert record["compile"]["recompiles"] == []


def no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("there is no room")


@pytest.mark.parametrize("later", [True, False])
def test_what_fails_runs_uncompiled(later, net, inductor):
    kind, base, control, copied, session, record = net
    expected = controls.sampled(kind, base, [control])

    def fails(*_: object) -> None:
        raise RuntimeError("no compiler today")

    if later:
        controls.sampled(kind, base, [copied])
        inductor.ran = fails
    else:
        inductor.spoil = fails
    assert controls.difference(controls.sampled(kind, base, [copied]), expected) <= TOLERANCE
    assert "no compiler today" in str(record["compile"]["regions_uncompiled"])
    inductor.ran = no_memory
    assert (
        controls.difference(controls.sampled(kind, base, [copied], 24), controls.sampled(kind, base, [control], 24))
        == 0
    )
    assert not session.during.now


def test_a_sampling_that_ends_early_leaves_nothing_behind(net, inductor):
    kind, base, control, copied, session, _ = net
    with pytest.raises(RuntimeError):
        controls.sampled(replace(kind, channels=5), base, [copied])
    assert not session.during.now
    result = controls.sampled(kind, base, [copied])
    assert controls.difference(result, controls.sampled(kind, base, [control])) <= TOLERANCE


class Cancelled(Exception):
    pass


@pytest.fixture
def cancelled(inductor):
    """A ControlNet whose compiling Cancel ends: its kind, the model, one that was applied, session and record."""
    kind = controls.SMALL
    pressed: list[Any] = []

    def check():
        if pressed:
            raise Cancelled

    copied, session, record = compiled(kind.make(), check_interrupt=check, interruption=Cancelled)
    base, applied = kind.base(), controls.applied(kind, [copied])
    inductor.spoil = pressed.append
    with pytest.raises(Cancelled):
        controls.run(kind, base, applied)
    inductor.spoil = lambda gm: None
    pressed.clear()
    return kind, base, applied, session, record


def test_after_cancel_nothing_is_said_to_be_compiled_and_the_next_sampling_is_a_new_one(cancelled):
    kind, base, applied, session, record = cancelled
    assert record["state"] == "idle" and not session.during.now, record["summary"]
    cut_off = session.during
    controls.run(kind, base, applied)
    assert session.during is not cut_off and not session.during.now and not session.during.broke_off
    assert record["state"] == "compiled", record["summary"]


@pytest.mark.parametrize(("steps", "same"), [(0, True), (1, True), (1, False)])
def test_a_sampling_that_was_cut_off_elsewhere_does_not_count_in_the_next(steps, same, net, inductor, monkeypatch):
    """Cancel may come while the model runs: the ControlNet is not told. It may be in ComfyUI's cache still, beside the
    one that the next prompt brings."""
    kind, base, control, copied, session, record = net
    prompts = ["first"]
    session.host = replace(session.host, prompt=lambda: prompts[-1])
    cut_off, left = controls.applied(kind, [copied]), [None] * steps

    def stop():
        if not left:
            raise Cancelled
        left.pop()

    with pytest.raises(Cancelled):
        controls.run(kind, base, cut_off, stop=stop)
    began, begins = session.during, []
    prompts.append("second")
    monkeypatch.setattr(session.compiler, "begin_sampling", lambda: begins.append(1))
    result = controls.run(kind, base, cut_off if same else controls.applied(kind, [copied]))
    assert session.during is not began and not session.during.now
    assert begins == [1], "with its own time for compiling, once for both prompts that it stands in"
    assert record["state"] == "compiled", record["summary"]
    assert controls.difference(result, controls.sampled(kind, base, [control])) <= TOLERANCE


def test_nor_where_a_node_samples_again_in_the_same_prompt(net):
    kind, base, _, copied, session, _ = net
    applied, left = controls.applied(kind, [copied]), [None]

    def stop():
        if not left:
            raise MemoryError
        left.pop()

    with pytest.raises(MemoryError):
        controls.run(kind, base, applied, stop=stop)
    began = session.during
    controls.run(kind, base, applied)
    assert session.during is not began and not session.during.now


def test_one_on_another_gpu_runs_uncompiled_and_the_record_says_so(net, inductor):
    """There is one GPU at most here: the copy is on the same device."""
    kind, base, control, copied, _, record = net
    chain = controls.applied(kind, [copied, copied])
    chain.control_model = copy.deepcopy(chain.control_model)
    result = controls.run(kind, base, chain)
    assert controls.difference(result, controls.sampled(kind, base, [control, control])) <= TOLERANCE
    assert inductor.runs > 0
    [left] = record["compile"]["regions_uncompiled"]
    assert left["path"] == "ControlNet (cpu)" and "several GPUs" in left["reason"]
    controls.sampled(kind, base, [copied])
    assert record["compile"]["regions_uncompiled"] == [], "it is said of samplings in which it is so"
