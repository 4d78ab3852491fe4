"""The inputs that a probe tries: what they vary in, every combination of it or a pairwise cover, and each in words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch

from ...memo import cached


@dataclass(frozen=True)
class Mask:
    """``dims`` of a mask; with 4 it has one plane a head. A bool one says True where a key takes part, the other is
    added to the scores."""

    dims: int
    boolean: bool

    def shape(self, batch: int, heads: int, queries: int, keys: int) -> tuple[int, ...]:
        """``Mask(3, True).shape(2, 8, 256, 77)`` is ``(2, 256, 77)``."""
        return {2: (queries, keys), 3: (batch, queries, keys), 4: (batch, heads, queries, keys)}[self.dims]

    def __str__(self) -> str:
        names = {2: "(queries, keys)", 3: "(batch, queries, keys)", 4: "(batch, heads, queries, keys)"}
        return f"{'bool' if self.boolean else 'additive'} mask {names[self.dims]}"


@dataclass(frozen=True)
class Layout:
    """Whether q, k and v come with heads apart, and whether the result has to."""

    split_in: bool
    split_out: bool

    def __str__(self) -> str:
        if not self.split_in:
            return "flat q, k, v"
        return "skip_reshape and skip_output_reshape" if self.split_out else "skip_reshape"


@dataclass(frozen=True)
class Brought:
    """What a model's own blocks hand to a site besides q, k and v: which masks, and in which layouts."""

    masks: frozenset[Mask] = frozenset()
    layouts: frozenset[Layout] = frozenset()


FLAT, SPLIT = Layout(False, False), Layout(True, False)
MASKS = tuple(Mask(dims, boolean) for dims in (2, 3, 4) for boolean in (True, False))
BATCHES = (1, 2, 4)
LATENTS = ((16, 16), (13, 11))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """One call. ``latent`` is height and width in tokens, ``prompt`` tokens of the prompt, None where none is read."""

    batch: int
    prompt: int | None
    latent: tuple[int, int]
    mask: Mask | None
    dtype: torch.dtype
    layout: Layout

    def __str__(self) -> str:
        """``batch 2, 154 prompt tokens, 16×16 latents, bool mask (batch, queries, keys), float16``."""
        return ", ".join(filter(None, (_word(name, getattr(self, name)) for name in AXES)))


AXES = tuple(field.name for field in fields(Case))


def _word(axis: str, value: object) -> str:
    if axis == "batch":
        return f"batch {value}"
    if axis == "prompt":
        return "" if value is None else f"{value} prompt tokens"
    if axis == "latent":
        assert isinstance(value, tuple)
        return f"{value[0]}×{value[1]} latents"
    if axis == "mask":
        return "no mask" if value is None else str(value)
    if axis == "dtype":
        return str(value).removeprefix("torch.")
    return "" if value == FLAT else str(value)


def in_words(masks: Sequence[Mask]) -> str:
    """``a bool mask (queries, keys) or (batch, queries, keys)``; "any mask" and "any bool mask" for all of a kind."""
    if set(masks) == set(MASKS):
        return "any mask"
    kinds = []
    for boolean in (True, False):
        kind = "bool" if boolean else "additive"
        given = [mask for mask in masks if mask.boolean is boolean]
        if len(given) == len(MASKS) // 2:
            kinds.append(f"any {kind} mask")
        elif given:
            shapes = " or ".join(str(mask).partition("mask ")[2] for mask in given)
            kinds.append(f"{'a' if boolean else 'an'} {kind} mask {shapes}")
    return " or ".join(kinds)


def share(failing: Sequence[Case], tried: Sequence[Case]) -> str:
    """How many fail: "12 of 84 calls that were tried fail"."""
    if len(failing) == len(tried):
        return f"All {len(tried)} calls that were tried fail" if len(tried) > 1 else "That is the only call tried"
    return f"{len(failing)} of {len(tried)} calls that were tried fail"


def phrases(failing: Sequence[Case], tried: Sequence[Case]) -> list[str]:
    """What failing cases have in common and others have not: "batch 1", "154 prompt tokens"; each may be several."""
    common: list[str] = []
    if len(failing) == len(tried):
        return common
    for axis in AXES:
        values = list(dict.fromkeys(getattr(case, axis) for case in failing))
        if set(values) != {getattr(case, axis) for case in tried}:
            common.append(" or ".join(_word(axis, value) or "flat q, k, v" for value in values))
    return common


@cached
def cases(
    prompts: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...], layouts: tuple[Layout, ...], thorough: bool
) -> tuple[Case, ...]:
    """Every combination, or few in which any two values of different axes meet."""
    axes: tuple[tuple, ...] = (BATCHES, prompts, LATENTS, (None, *MASKS), dtypes, layouts)
    combinations = itertools.product(*axes) if thorough else pairwise(axes)
    return tuple(Case(*values) for values in combinations)


def pairwise(axes: Sequence[Sequence]) -> list[tuple]:
    """Combinations in which any value of an axis meets any value of each other axis at least once, not many more."""
    pairs = {
        ((a, x), (b, y))
        for (a, first), (b, second) in itertools.combinations(enumerate(axes), 2)
        for x in range(len(first))
        for y in range(len(second))
    }
    chosen = []
    while pairs:
        picked = dict(min(pairs))
        for axis in sorted(set(range(len(axes))) - set(picked), key=lambda a: -len(axes[a])):
            picked[axis] = max(range(len(axes[axis])), key=partial(_gain, pairs, dict(picked), axis))
        pairs -= set(itertools.combinations(sorted(picked.items()), 2))
        chosen.append(tuple(values[picked[axis]] for axis, values in enumerate(axes)))
    return chosen


def _gain(pairs: set[tuple], picked: dict[int, int], axis: int, value: int) -> int:
    """How many pairs that did not meet yet a value would bring together with those picked already."""
    return sum(tuple(sorted(((axis, value), other))) in pairs for other in picked.items())
