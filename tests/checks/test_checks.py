"""The forward check on modules that are broken in the ways that people break them."""

from __future__ import annotations

import abc
from typing import Any, cast

import pytest
import torch
from onediff_pack.checks import check_model
from onediff_pack.processors import Site, adapt
from torch import nn


class NoForward(nn.Module):
    pass


class OnlyRaises(nn.Module):
    def forward(self, x):
        """Not written yet."""
        raise NotImplementedError("later")


class Abstract(nn.Module):
    @abc.abstractmethod
    def forward(self, x): ...


class CallsItself(nn.Module):
    """diffusers' processors before they were modules."""

    def __call__(self, attn, hidden_states):
        return hidden_states


class RaisesSometimes(nn.Module):
    def forward(self, x):
        if x.ndim != 2:
            raise NotImplementedError("2-d only")
        return x


class Holder(nn.Module):
    """Never called: its parent reaches into it, as Flux's blocks do with SelfAttention."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 4)


class Block(nn.Module):
    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part
        self.held = Holder()
        self.items = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, x):
        x = self.part(x)
        for item in self.items:
            x = item(x)
        return self.held.qkv(x)


class Model(nn.Module):
    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList([Block(part) for part in parts])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize(
    ("part", "what"),
    [
        (NoForward(), "has no forward"),
        (OnlyRaises(), "only raises NotImplementedError"),
        (cast(Any, Abstract)(), "only raises NotImplementedError"),
    ],
)
def test_a_broken_module_is_named_with_file_and_line(part, what):
    report = check_model(Model(nn.Linear(4, 4), part), sites=2)
    assert not report.ok
    (finding,) = report.findings
    assert what in finding.what
    assert finding.path == "blocks.1.part"
    assert finding.cls == type(part).__name__
    assert finding.where.startswith("checks/test_checks.py:")
    line = int(finding.where.rpartition(":")[2])
    with open(__file__) as source:
        assert f"class {type(part).__name__}(" in source.readlines()[line - 1]
    assert finding.fix
    assert report.under("blocks.1") == [finding]
    assert report.under("blocks.0") == []


def test_a_module_that_overrides_call_is_noted_and_compiled():
    report = check_model(Model(nn.Linear(4, 4), CallsItself()), sites=2)
    assert report.ok
    (finding,) = report.findings
    assert (finding.severity, finding.what) == ("note", "overrides __call__ instead of forward")
    assert report.under("blocks.1") == []


def test_complete_modules_containers_and_holders_are_no_findings():
    report = check_model(Model(nn.Linear(4, 4), RaisesSometimes()), sites=0)
    assert report.ok
    assert report.findings == ()


def test_an_element_that_is_looped_over_is_called():
    model: Any = Model(nn.Linear(4, 4))
    model.blocks[0].items.append(NoForward())
    assert [finding.path for finding in check_model(model, 0).findings] == ["blocks.0.items.1"]


def test_replaced_parts_and_attached_processors_are_checked():
    model = Model(nn.Linear(4, 4))
    site = Site("blocks.0", model.blocks[0], "self", False)
    report = check_model(model, 1, replaced={"blocks.0.part": NoForward()}, attached=[(site, CallsItself())])
    assert {finding.path for finding in report.findings} == {"blocks.0.part", "blocks.0.processor"}


class Attention(nn.Module):
    """What is replaced, with the arguments of ComfyUI's CrossAttention."""

    def forward(self, x, context=None, value=None, mask=None, transformer_options=None):
        return x


class TakesLess(nn.Module):
    def forward(self, x, context=None):
        return x


class RequiresMore(nn.Module):
    def forward(self, x, context=None, value=None, mask=None, transformer_options=None, *, timestep):
        return x


class TakesAnything(nn.Module):
    def forward(self, *args, **kwargs):
        return args[0]


class OtherNameForX(nn.Module):
    def forward(self, hidden_states, context=None, value=None, mask=None, transformer_options=None, gain=1.0):
        return hidden_states * gain


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [
        (TakesLess, ["replacement-takes-less: takes no value, mask, transformer_options"]),
        (RequiresMore, ["replacement-requires-more: requires timestep"]),
        (TakesAnything, []),
        (OtherNameForX, []),
        (Attention, []),
    ],
)
def test_a_replacement_is_held_against_what_it_replaces(replacement, expected):
    report = check_model(Model(Attention()), 0, replaced={"blocks.0.part": replacement()})
    assert [f"{f.rule}: {f.what.partition(', which')[0]}" for f in report.findings] == expected
    for finding in report.findings:
        assert finding.path == "blocks.0.part"
        assert "(self, x, context=None, value=None, mask=None, transformer_options=None)" in finding.why


def test_a_processor_at_many_sites_is_one_finding():
    processor, model = adapt(CallsItself()), Model(nn.Linear(4, 4))
    sites = [Site(f"blocks.0.attn{n}", model.blocks[0], "self", False) for n in (1, 2)]
    report = check_model(model, 2, attached=[(site, processor) for site in sites])
    assert {(finding.path, finding.cls) for finding in report.findings} == {("blocks.0.attn1.processor", "CallsItself")}
    rules = [finding.rule for finding in report.findings]
    assert "call-instead-of-forward" in rules and len(rules) == len(set(rules))
    assert all(finding.why.endswith("The same at 1 more site.") for finding in report.findings)


def test_the_finding_matches_what_torch_does():
    """What the check calls broken raises when it is called, and what it passes runs."""
    with pytest.raises(NotImplementedError):
        Model(NoForward())(torch.ones(1, 4))
    Model(nn.Linear(4, 4))(torch.ones(1, 4))


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("name", ["unet", "flux"])
def test_the_hosts_models_pass(name):
    import models

    model = getattr(models, f"{name}_patcher")().model.diffusion_model
    report = check_model(model, 0)
    assert report.findings == ()
    assert report.modules > 40
