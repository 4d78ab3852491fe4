"""Rules on what a module takes, against what it is going to be given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ..processors import CONTRACTS, KernelProcessor, ModuleProcessor, Plan, Way
from ..processors.authored.call_plan import Form
from ..processors.authored.parameters import entry_of, reached_parameters
from .rule import Hit, Layer, Rule, Subject, rule
from .source import function_location


def _attention_module(
    self: nn.Module,
    x: torch.Tensor,
    context: torch.Tensor | None = None,
    value: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    transformer_options: dict[str, Any] | None = None,
) -> torch.Tensor:
    """As a UNet's attention module is called."""
    raise NotImplementedError


_ORIGINAL: dict[Form, Callable] = {
    "kernel": KernelProcessor.forward,
    "module": ModuleProcessor.forward,
    "stand-in": _attention_module,
}


@dataclass(frozen=True)
class Called(Subject):
    """A processor with the way in which it would be called, None when that is unclear."""

    way: Way | None

    @property
    def forward(self) -> Callable:
        return entry_of(self.module)

    @property
    def form(self) -> Form:
        return self.way.form if self.way is not None else "kernel"

    @property
    def plan(self) -> Plan:
        assert self.way is not None
        return self.way.plan


class Signature(Rule):
    """A rule on the arguments of a processor's ``forward``; ``names(called)`` are those that break it."""

    layer: ClassVar[Layer] = "signature"
    subject: ClassVar[type[Subject]] = Called

    def names(self, called: Called) -> Sequence[str]:
        raise NotImplementedError

    def hits(self, subject: Called) -> Iterator[Hit]:
        names = self.names(subject) if subject.way is not None else []
        if names:
            original = _ORIGINAL[subject.form]
            values = {"names": ", ".join(names), "signature": show(subject.forward), "original": show(original)}
            yield Hit(values, function_location(subject.forward))


@rule
class LevelUnclear(Rule):
    """Neither the class nor its arguments say whether it takes the attention function's place or the module's."""

    layer = "signature"
    subject = Called
    what = "has a forward that is called in none of the three ways"
    why = "Its forward is {signature}; known are {kernel}, {module} and {stand-in}."
    fix = "Name the first arguments so, or set level = “kernel”, “module” or “stand-in” on the class."

    def hits(self, subject: Called) -> Iterator[Hit]:
        if subject.way is None:
            shown: dict[str, object] = {form: show(original) for form, original in _ORIGINAL.items()}
            yield Hit({**shown, "signature": show(subject.forward)}, function_location(subject.forward))


@rule
class CallableBothWays(Rule):
    """Neither the class nor its arguments tell its form, and a small call succeeded in both."""

    layer = "signature"
    subject = Called
    severity = "note"
    what = "can be called in both ways; it is given the attention module"
    why = "Its forward is {signature}, and small calls as {kernel} and as {module} both gave a result."
    fix = "Name the first arguments so, or set level = “kernel” or “module” on the class."

    def hits(self, subject: Called) -> Iterator[Hit]:
        if subject.way is not None and subject.way.told_by == "a tie":
            shown: dict[str, object] = {form: show(original) for form, original in _ORIGINAL.items()}
            yield Hit({**shown, "signature": show(subject.forward)}, function_location(subject.forward))


@rule
class TooFewArguments(Signature):
    """There is no place for q, k, v and heads, or for the module and its input."""

    what = "has no place for {names}, which every call brings"
    why = "Its forward is {signature}; it is called as {original}."
    fix = "Add {names} to forward, in that order."

    def names(self, called: Called) -> Sequence[str]:
        return [name for name in called.plan.dropped if name in _required(called)]


@rule
class OtherOrder(Signature):
    """q, k and v in another order than the host's would be mixed up in silence."""

    what = "takes its arguments in another order than they are passed ({names})"
    why = "Its forward is {signature}; it is called as {original}, by position."
    fix = "Put them in that order, or make them keyword-only."

    def names(self, called: Called) -> Sequence[str]:
        contract = CONTRACTS[called.form]
        parameters = [p.name for p in reached_parameters(called.module)]
        arguments = (*contract.required, *contract.optional)
        by_name = {own: name for name in reversed(arguments) for own in contract.names(name)}
        return [
            own
            for own, passed in zip(parameters, called.plan.positional, strict=False)
            if by_name.get(own, passed) != passed
        ]


@rule
class NobodyPasses(Signature):
    """A required argument that the host does not have."""

    what = "requires {names}, which no call brings"
    why = "Its forward is {signature}; it is called as {original}."
    fix = "Give {names} a default, or take it out."

    def names(self, called: Called) -> Sequence[str]:
        return called.plan.unfilled


@rule
class DropsMask(Signature):
    """The mask would be dropped. Calls that bring one are computed by PyTorch's attention."""

    severity = "warning"
    what = "takes no {names}"
    why = (
        "Calls that bring a mask, as regional prompts and some models do, are computed by PyTorch's attention instead. "
        "Its forward is {signature}; it is called as {original}."
    )
    fix = "Add {names}=None to forward and use it: bool (True takes part) or added to the scores."

    def names(self, called: Called) -> Sequence[str]:
        return [name for name in called.plan.dropped if name in ("mask", "attention_mask")]


@rule
class DropsContext(Signature):
    """The prompt would be dropped. Cross-attention is computed by PyTorch's attention instead."""

    severity = "warning"
    what = "takes no {names}"
    why = (
        "Cross-attention, which brings the prompt there, is computed by PyTorch's attention instead. "
        "Its forward is {signature}; it is called as {original}."
    )
    fix = "Add {names}=None to forward; None means self-attention."

    def names(self, called: Called) -> Sequence[str]:
        return [name for name in called.plan.dropped if name in ("encoder_hidden_states", "context")]


@dataclass(frozen=True)
class Replacement(Subject):
    """A module that another node put in a module's place; ``original`` is the unbound ``forward`` of that one."""

    original: Callable


class Replaced(Rule):
    """A rule on a replacement's arguments against those of what it replaces."""

    layer: ClassVar[Layer] = "signature"
    subject: ClassVar[type[Subject]] = Replacement

    def names(self, own: inspect.Signature, original: inspect.Signature) -> Sequence[str]:
        raise NotImplementedError

    def hits(self, subject: Replacement) -> Iterator[Hit]:
        forward = type(subject.module).forward
        if forward is nn.Module.forward:  # completeness has said so
            return
        names = self.names(inspect.signature(forward), inspect.signature(subject.original))
        if names:
            values = {"names": ", ".join(names), "signature": show(forward), "original": show(subject.original)}
            yield Hit(values, function_location(forward))


@rule
class ReplacementTakesLess(Replaced):
    """Callers may pass arguments that the replacement has no parameter for."""

    severity = "warning"
    what = "takes no {names}, which the module that it replaces takes"
    why = "Its forward is {signature}; the replaced one is {original}. A call that brings it raises TypeError."
    fix = "Add {names} to forward, or **kwargs."

    def names(self, own: inspect.Signature, original: inspect.Signature) -> Sequence[str]:
        if any(p.kind is p.VAR_KEYWORD for p in own.parameters.values()):
            return []
        places = [p for p in own.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        any_place = any(p.kind is p.VAR_POSITIONAL for p in own.parameters.values())
        missing = []
        for place, (name, parameter) in enumerate(original.parameters.items()):
            by_position = parameter.default is parameter.empty and (place < len(places) or any_place)
            if name not in own.parameters and not by_position and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                missing.append(name)
        return missing


@rule
class ReplacementRequiresMore(Replaced):
    """The replacement requires arguments that nobody passes."""

    what = "requires {names}, which the module that it replaces does not take"
    why = "Its forward is {signature}; the replaced one is {original}."
    fix = "Give {names} a default."

    def names(self, own: inspect.Signature, original: inspect.Signature) -> Sequence[str]:
        given = len([p for p in original.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD])
        return [
            name
            for place, (name, p) in enumerate(own.parameters.items())
            if p.default is p.empty
            and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            and name not in original.parameters
            and (p.kind is p.KEYWORD_ONLY or place >= given)
        ]


def show(forward: Callable) -> str:
    """A signature without types: "(self, q, k, v, heads, mask=None)"."""
    signature = inspect.signature(forward)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def _required(called: Called) -> tuple[str, ...]:
    return CONTRACTS[called.form].required
