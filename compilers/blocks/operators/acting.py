"""Which foreign code acts inside a block, and what the block is given in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ....patching.foreign import BLOCK_PATCHES, HOSTS_OWN, OVERRIDE, origin
from ..transformer_options import PATCHES, REPLACEMENTS, Reads, Unfit, replacement, watched
from .block_call import BlockCall
from .call_form import MARK
from .promises import HOSTS_ROLE, Promises

#: The place that a block is told to be at, inside a graph: where it looks up what replaces its attention.
PLACE = ("block", 0)


@dataclass(frozen=True)
class Acting:
    """Foreign functions that act inside a block at this call, by role: "override", or "attention" where that is
    ComfyUI's own, "attn1_patch 0" and so on, "attn2 replaced"."""

    functions: dict[str, Callable]

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.functions)

    def described(self) -> Iterator[tuple[str, str, str]]:
        """Each role with what it is, in words, and where it comes from."""
        for role, function in self.functions.items():
            yield role, in_words(role), origin(function)


NOTHING = Acting({})

#: Roles of an attention override, with the words for them.
_OVERRIDES = {"override": "attention override", HOSTS_ROLE: "ComfyUI's attention"}


def _role_of(override: Callable) -> str:
    return HOSTS_ROLE if getattr(override, HOSTS_OWN, False) else "override"


def in_words(role: str) -> str:
    """A role for people: "attention override"."""
    if role in _OVERRIDES:
        return _OVERRIDES[role]
    name, _, which = role.partition(" ")
    return f"replacement of {name}" if which == "replaced" else BLOCK_PATCHES.get(name, name)


def whose_words(role: str) -> str:
    """The same with whose it is: "another node's attention override"."""
    return in_words(role) if role == HOSTS_ROLE else f"another node's {in_words(role)}"


def acting_on(options: dict[str, Any], reads: Reads) -> Acting | Unfit:
    """What acts on a block that reads this, or why it cannot be an operator."""
    functions: dict[str, Callable] = {}
    if options.get(OVERRIDE) is not None:
        functions[_role_of(options[OVERRIDE])] = options[OVERRIDE]
    patches = options.get(PATCHES) or {}
    for name in sorted(reads.patches & patches.keys()):
        for number, function in enumerate(patches[name] or ()):
            functions[f"{name} {number}"] = function
    replacements = options.get(REPLACEMENTS) or {}
    for name in sorted(reads.replacements & replacements.keys()):
        function = replacement(replacements[name], options)
        if function is not None:
            functions[f"{name} replaced"] = function
    if not all(callable(function) for function in functions.values()):
        return Unfit("another node put something on it that is no function.")
    if options.get("block") is None and any(role.endswith(" replaced") for role in functions):
        return Unfit("another node replaced attention in it, and its place in the model is not known.")
    return Acting(functions)


def with_standins(options: dict[str, Any], entering: dict[str, Any], acting: Acting, promises: Promises) -> dict:
    """What enters the graph: the plain values, and a stand-in where foreign code acts."""
    patches: dict[str, list[Callable]] = {}
    replacements: dict[str, dict[tuple, Callable]] = {}
    inside: dict[str, Any] = {**entering, PATCHES: patches, REPLACEMENTS: replacements}
    for role in acting.roles:
        standin, (name, _, which) = promises.standin(role), role.partition(" ")
        if role in _OVERRIDES:
            inside[OVERRIDE] = standin
        elif which == "replaced":
            replacements[name] = {PLACE: standin}
        else:
            patches.setdefault(name, []).append(standin)
    for key, place in (("block", PLACE), ("block_index", 0)):
        if key in options:
            inside[key] = place
    inside[MARK] = tuple(inside)
    return inside


def is_superseded(override: Callable | None, functions: dict[str, Callable]) -> bool:
    """Whether an attention override is none of the foreign ``functions`` that act: a processor takes its place, as it
    does for this very override alone."""
    return override is not None and _role_of(override) not in functions


def uncompiled_options(call: BlockCall, keeps_override: bool, reads: Reads | None = None) -> dict[str, Any]:
    """The options of a call with functions that go through it in the place of foreign ones. ``reads`` notes what the
    block itself reads. With ``keeps_override`` the attention override is left as it is: a processor takes its place."""
    options = dict(call.options)
    override = options.get(OVERRIDE)
    if override is not None and not keeps_override:
        options[OVERRIDE] = call.uncompiled(_role_of(override), override)
        options[OVERRIDE].__dict__[HOSTS_OWN] = getattr(override, HOSTS_OWN, False)
    options[PATCHES] = {
        name: [
            call.uncompiled(f"{name} {number}", one) if callable(one) else one for number, one in enumerate(functions)
        ]
        for name, functions in (call.options.get(PATCHES) or {}).items()
    }
    options[REPLACEMENTS] = {
        name: {place: call.uncompiled(f"{name} replaced", one) for place, one in by_block.items()}
        for name, by_block in (call.options.get(REPLACEMENTS) or {}).items()
    }
    options[MARK] = tuple(options)
    if reads is not None:
        options = watched(options, reads, call.options)
    call.options_given = options
    return options
