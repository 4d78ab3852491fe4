"""What a model calls, found out by calling it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from onediff_pack.checks import check_model
from onediff_pack.checks.reaching.module_call import ModuleCall, TensorSpec
from onediff_pack.checks.reaching.reach import reach
from torch import nn


class NoForward(nn.Module):
    """Whoever calls it fails, whoever reaches into it does not."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)


class CallsItself(nn.Module):
    def __call__(self, x):
        return x * 2


class Block(nn.Module):
    """``held`` is reached into, ``late`` is called above a batch of 4 only, ``by_name`` through getattr, ``unused`` by
    nobody."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.held = NoForward()
        self.late = nn.Linear(8, 8)
        self.by_name = nn.Linear(8, 8)
        self.unused = nn.Linear(8, 8)
        self.items = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.steps = 0

    def forward(self, x, mask=None):
        self.steps += 1
        x = self.held.inner(self.norm(x)) + getattr(self, "by_" + "name")(x)
        if x.shape[0] > 4:
            x = self.late(x)
        for item in self.items:
            x = item(x)
        return x


class Model(nn.Module):
    def __init__(self, context: int = 24):
        super().__init__()
        self.embed = nn.Linear(context, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.pooled = nn.Linear(40 + 16, 8)

    def forward(self, context, pooled):
        x = self.embed(context) + self.pooled(torch.cat([pooled, torch.zeros(2, 16)], dim=1))[:, None]
        for block in self.blocks:
            x = block(x, mask=None)
        return x


def example(model, width):
    return model(torch.zeros(2, 7, width("context")), torch.zeros(2, width("pooled")))


def run(model, **options):
    return reach(model, [example], **options)


def findings(model):
    report = check_model(model, 0, find_reach=lambda broken: run(model, stand_ins=broken))
    return [(f.severity, f.path) for f in report.findings]


def test_it_finds_the_widths_and_what_is_called():
    found = run(Model(context=24))
    assert found.complete
    assert found.widths == {"context": 24, "pooled": 40}
    assert {
        "embed",
        "pooled",
        "blocks.1",
        "blocks.1.held.inner",
        "blocks.1.by_name",
        "blocks.1.items.1",
    } <= found.called
    assert not {"blocks", "blocks.0.held", "blocks.0.late", "blocks.0.unused", "blocks.0.items"} & found.called


def test_it_tells_the_arguments_of_the_modules_that_were_asked_for():
    found = run(Model(), watch=["blocks.1"])
    assert found.calls == {"blocks.1": (ModuleCall((TensorSpec((2, 7, 8), torch.float32),), {"mask": None}),)}


def test_it_leaves_nothing_behind():
    model = Model()
    weights = {name: (p.data_ptr(), p.clone()) for name, p in model.named_parameters()}
    attributes = {path: set(module.__dict__) for path, module in model.named_modules()}
    torch.manual_seed(3)
    expected = torch.rand(1), random.random()
    torch.manual_seed(3)
    python_state = random.getstate()
    with torch.inference_mode():
        assert run(model).complete
    assert torch.rand(1) == expected[0]
    assert random.getstate() == python_state
    assert {path: set(module.__dict__) for path, module in model.named_modules()} == attributes
    assert all(block.steps == 0 for block in model.blocks)
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, parameter in model.named_parameters():
        pointer, value = weights[name]
        assert parameter.data_ptr() == pointer
        assert torch.equal(parameter, value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_weights_that_are_cast_while_the_model_runs_do(dtype):
    assert run(Model().to(dtype), dtype=torch.float32).complete


def test_weights_on_the_meta_device_do():
    with torch.device("meta"):
        model = Model()
    assert run(model).complete


def test_a_model_that_cannot_be_called_gives_a_reason():
    class Raises(Model):
        def forward(self, context, pooled):
            self.embed(context)
            raise KeyError("a file that is not here")

    found = run(Raises())
    assert found.reason == "KeyError: 'a file that is not here'"
    assert found.called >= {"embed"}
    assert not found.complete


def test_a_branch_on_values_is_said_to_be_guessed():
    class Branches(Model):
        def forward(self, context, pooled):
            return super().forward(context, pooled) if context.sum() > 0 else self.embed(context)

    found = run(Branches())
    assert found.reason is None
    assert found.guessed


def test_a_part_that_another_node_put_in_is_run_instead():
    replacement = nn.Sequential(nn.Linear(8, 8))
    found = run(Model(), replaced={"blocks.0.held.inner": replacement})
    assert "blocks.0.held.inner.0" in found.called


def test_modules_that_override_call_are_seen():
    model = Model()
    model.blocks[0].held.inner = CallsItself()
    assert "blocks.0.held.inner" in run(model).called
    assert type(model.blocks[0].held.inner) is CallsItself


def test_a_scripted_module_runs_as_it_is():
    model = Model()
    model.blocks[0].norm = torch.jit.script(nn.LayerNorm(8))
    found = run(model)
    assert found.complete
    assert "blocks.0.norm" in found.called


def test_hooks_of_others_are_not_run():
    model, seen = Model(), []
    model.embed.register_forward_hook(lambda *_: seen.append(1))
    assert run(model).complete
    assert seen == []


def test_a_patched_forward_is_not_run_but_the_modules_own_is():
    model = Model()
    model.blocks[0].forward = pytest.fail
    assert "blocks.0.norm" in run(model).called
    del model.blocks[0].forward


def test_a_module_whose_only_forward_is_its_own_attribute_runs():
    model = Model()
    model.blocks[0].norm = NoForward()
    model.blocks[0].norm.forward = lambda x: x
    assert run(model).complete


def test_a_container_that_its_parent_reaches_into_is_no_finding():
    assert findings(Model()) == []


@pytest.mark.parametrize("path", ["blocks.0.by_name", "blocks.1.items.0", "blocks.0.norm"])
def test_a_broken_module_that_is_called_is_an_error(path):
    model = Model()
    model.set_submodule(path, NoForward())
    assert findings(model) == [("error", path)]


def test_one_that_some_other_input_may_call_is_a_warning_that_says_so():
    model = Model()
    model.blocks[0].late = NoForward()
    report = check_model(model, 0, find_reach=lambda broken: run(model, stand_ins=broken))
    (finding,) = report.findings
    assert (finding.severity, finding.path) == ("warning", "blocks.0.late")
    assert "a run with example inputs did not" in finding.why
    assert report.ok


def test_one_that_nobody_calls_is_no_finding():
    model = Model()
    model.blocks[0].unused = NoForward()
    assert findings(model) == []


def test_all_broken_modules_are_found_in_one_run():
    model: Any = Model()
    for block in model.blocks:
        block.norm = NoForward()
        block.items[1] = CallsItself()
    expected = {f"blocks.{i}.{name}" for i in (0, 1) for name in ("norm", "items.1")}
    assert {path for _, path in findings(model)} == expected


def test_where_the_run_fails_the_source_is_read_and_the_finding_says_so():
    model: Any = Model()
    model.pooled = NoForward()  # what stands in for it cannot make 8 channels of 56
    model.blocks[1].late = NoForward()
    report = check_model(model, 0, find_reach=lambda broken: run(model, stand_ins=broken))
    by_path = {finding.path: finding for finding in report.findings}
    assert "Its parent's code calls it; running the model could not confirm that" in by_path["blocks.1.late"].why
    assert by_path["blocks.1.late"].severity == "error"
    assert "running the model could not confirm that" not in by_path["pooled"].why


def test_a_model_without_broken_modules_is_not_run():
    class Whole(nn.Sequential):
        pass

    assert check_model(Whole(nn.Linear(4, 4)), 0, find_reach=lambda broken: pytest.fail("it was run")).ok
