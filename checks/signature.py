"""Rules on what a module takes, against what it is going to be given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..processors import CONTRACTS, KernelProcessor, Level, ModuleProcessor, Plan, plan_call
from .rule import Hit, Layer, Rule, Subject, rule
from .source import function_location

_ORIGINAL: dict[Level, Callable] = {"kernel": KernelProcessor.forward, "module": ModuleProcessor.forward}


@dataclass(frozen=True)
class Called(Subject):
    """A processor with the level at which it would be called, None when that is unclear."""

    level: Level | None

    @property
    def forward(self) -> Callable:
        return type(self.module).forward

    @property
    def plan(self) -> Plan:
        assert self.level is not None
        return plan_call(self.forward, self.level)


class Signature(Rule):
    """A rule on the arguments of a processor's ``forward``; ``names(called)`` are those that break it."""

    layer: ClassVar[Layer] = "signature"
    subject: ClassVar[type[Subject]] = Called

    def names(self, called: Called) -> Sequence[str]:
        raise NotImplementedError

    def hits(self, subject: Called) -> Iterator[Hit]:
        names = self.names(subject) if subject.level is not None else []
        if names:
            original = _ORIGINAL[subject.level or "kernel"]
            values = {"names": ", ".join(names), "signature": show(subject.forward), "original": show(original)}
            yield Hit(values, function_location(subject.forward))


@rule
class LevelUnclear(Rule):
    """Neither the class nor its arguments say whether it takes the attention function's place or the module's."""

    layer = "signature"
    subject = Called
    what = "has a forward that is called in neither of the two ways"
    why = "Its forward is {signature}; known are {kernel} and {module}."
    fix = "Name the first arguments so, or set level = “kernel” or “module” on the class."

    def hits(self, subject: Called) -> Iterator[Hit]:
        if subject.level is None:
            shown: dict[str, object] = {level: show(original) for level, original in _ORIGINAL.items()}
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
        contract = CONTRACTS[called.level or "kernel"]
        parameters = [name for name in inspect.signature(called.forward).parameters if name != "self"]
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
        return [name for name in called.plan.dropped if name == "encoder_hidden_states"]


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
    return CONTRACTS[called.level or "kernel"].required
