"""How a processor is called: which of the host's arguments it takes, by its parameters.

ComfyUI and diffusers name some arguments differently (``context`` and ``encoder_hidden_states``), and processors leave
out what they do not need. So the call is planned once from the parameters of ``forward``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...memo import cached
from ...patching.ending.stopping import CALLERS

#: The forms in which people write processors. "stand-in" takes the place of a whole attention module, without one.
Form = Literal["kernel", "module", "stand-in"]

Parameters = Sequence[inspect.Parameter]

_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Contract:
    """What the host hands to processors of a form.

    ``required`` comes with every call, in this order; ``optional`` where the model has it. ``aliases`` are other names
    under which processors take an argument. ``loose`` may be handed to ``**kwargs``; what is not in it would be
    swallowed there unseen.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]
    loose: frozenset[str]

    def names(self, argument: str) -> tuple[str, ...]:
        """The names that a parameter for this argument may have."""
        return (argument, *self.aliases.get(argument, ()))

    @property
    def known(self) -> frozenset[str]:
        """The names of all arguments."""
        return frozenset(name for argument in (*self.required, *self.optional) for name in self.names(argument))


CONTRACTS: Mapping[Form, Contract] = {
    "kernel": Contract(
        required=("q", "k", "v", "heads"),
        optional=("mask", "skip_reshape", "skip_output_reshape", "scale", "enable_gqa", "transformer_options"),
        aliases={
            "q": ("query",),
            "k": ("key",),
            "v": ("value",),
            "heads": ("num_heads", "n_heads"),
            "mask": ("attn_mask", "attention_mask"),
        },
        loose=frozenset({"mask", "skip_reshape", "skip_output_reshape", "scale", "enable_gqa"}),
    ),
    "module": Contract(
        required=("attn", "hidden_states"),
        optional=("encoder_hidden_states", "attention_mask", "value", "transformer_options"),
        aliases={
            "hidden_states": ("x",),
            "encoder_hidden_states": ("context",),
            "attention_mask": ("mask", "attn_mask"),
        },
        loose=frozenset({"encoder_hidden_states", "attention_mask"}),
    ),
    "stand-in": Contract(
        required=("x",),
        optional=("context", "value", "mask", "transformer_options"),
        aliases={
            "x": ("hidden_states",),
            "context": ("encoder_hidden_states",),
            "mask": ("attention_mask", "attn_mask"),
        },
        loose=frozenset({"context", "value", "mask", "transformer_options"}),
    ),
}


@dataclass(frozen=True)
class Plan:
    """One processor's call.

    ``positional`` are the host's arguments handed over by position, ``named`` maps the others to the processor's names.
    ``dropped`` are those that it has no parameter for, ``unfilled`` its own required parameters that nobody passes.
    """

    positional: tuple[str, ...]
    named: Mapping[str, str]
    dropped: tuple[str, ...]
    unfilled: tuple[str, ...]

    def call(self, function: Callable, given: Mapping[str, Any]) -> Any:
        """Calls the processor with what it takes of ``given``."""
        arguments = [given[name] for name in self.positional]
        return function(*arguments, **{own: given[name] for name, own in self.named.items() if name in given})


CALLERS.add(Plan.call.__code__)


@cached
def plan_call(forward: Callable, form: Form) -> Plan:
    """Plans the call of an unbound ``forward`` (its first parameter is the processor itself).

    ``def forward(self, query, key, value, heads, attn_mask=None)`` gives positional q, k, v, heads, named
    ``{"mask": "attn_mask"}``, dropped skip_reshape, skip_output_reshape, scale, enable_gqa.
    """
    return plan(list(inspect.signature(forward).parameters.values())[1:], form)


def plan(parameters: Parameters, form: Form) -> Plan:
    """Plans a call by parameters, the processor itself not among them."""
    contract = CONTRACTS[form]
    places = [p for p in parameters if p.kind in _BY_POSITION]
    keyword_only = {p.name for p in parameters if p.kind is _KEYWORD_ONLY}
    more_places = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)

    positional: list[str] = []
    named: dict[str, str] = {}
    dropped: list[str] = []
    filled: set[str] = set()
    for argument in contract.required:
        own = next((name for name in contract.names(argument) if name in keyword_only), None)
        if own is not None:
            named[argument] = own
            filled.add(own)
        elif len(positional) < len(places):
            filled.add(places[len(positional)].name)
            positional.append(argument)
        elif more_places:
            positional.append(argument)
        elif takes_any:
            named[argument] = argument
        else:
            dropped.append(argument)
    following = _following(places[len(positional) :], contract)
    positional += following.values()
    filled |= following.keys()
    open_names = {p.name for p in places if p.kind is not inspect.Parameter.POSITIONAL_ONLY} | keyword_only
    for argument in contract.optional:
        if argument in positional:
            continue
        own = next((name for name in contract.names(argument) if name in open_names - filled), None)
        if own is None and takes_any and argument in contract.loose:
            own = argument
        if own is None:
            dropped.append(argument)
        else:
            named[argument] = own
            filled.add(own)
    unfilled = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (*_BY_POSITION, _KEYWORD_ONLY) and p.name not in filled
    ]
    return Plan(tuple(positional), named, tuple(dropped), tuple(unfilled))


def _following(places: Parameters, contract: Contract) -> dict[str, str]:
    """Optional arguments that can be handed over by position alone: the parameter's name with the argument's. The first
    one that is not known ends them."""
    found: dict[str, str] = {}
    for place in places:
        argument = next((name for name in contract.optional if place.name in contract.names(name)), None)
        if place.kind is not inspect.Parameter.POSITIONAL_ONLY or argument is None:
            break
        found[place.name] = argument
    return found
