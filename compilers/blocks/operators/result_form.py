"""In which form foreign code gives its results: what a graph is promised of them.

A form is a text, because it is an argument of the operator: a graph that was promised another form is another graph, in
Inductor's cache too. ``('tuple', (0, None))|0.0,0.1,0.2:float32:0,1,2`` is a tuple of one tensor and None; the tensor
is as large as the first of the call's tensors in its three dimensions, and dense with the last dimension innermost.
``0.1*0.3`` is a product of two of its sizes, ``1.1+4`` a size and four more, ``77`` a number.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

import torch

#: Structure of a result that no operator can give back.
STRANGE = "strange"

#: Calls that are remembered of each form of call; they tell sizes that are equal by chance from those that are not.
MOST_SEEN = 8

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """One tensor of a result: sizes, dtype, and its dimensions from the outermost in memory to the innermost."""

    sizes: Sizes
    dtype: str
    order: Sizes


@dataclass(frozen=True)
class Seen:
    """One call: the sizes of its tensors, and what it gave. ``writes_outside``: it wrote into what the block was given,
    which others are given too."""

    inputs: tuple[Sizes, ...]
    structure: Any
    leaves: tuple[Leaf, ...]
    writes_outside: bool = False

    @property
    def kind(self) -> tuple:
        """What of it does not depend on sizes."""
        return (self.structure, tuple((leaf.dtype, len(leaf.sizes)) for leaf in self.leaves))


def seen(inputs: tuple[Sizes, ...], result: Any, writes_outside: bool = False) -> Seen:
    structure, tensors = take_apart(result)
    return Seen(inputs, structure, tuple(_leaf(tensor) for tensor in tensors), writes_outside)


def _leaf(tensor: torch.Tensor) -> Leaf:
    order = tuple(range(tensor.ndim))
    if not tensor.is_contiguous():
        by_stride = tuple(sorted(order, key=lambda dim: (-tensor.stride()[dim], dim)))
        order = by_stride if tensor.permute(by_stride).is_contiguous() else order
    return Leaf(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), order)


def take_apart(result: Any) -> tuple[Any, list[torch.Tensor]]:
    """The structure of a result, with the number of each tensor in its place, and the tensors."""
    tensors: list[torch.Tensor] = []

    def structure(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            tensors.append(value)
            return len(tensors) - 1
        if value is None:
            return None
        if isinstance(value, tuple | list) and type(value) in (tuple, list):
            return ("tuple" if isinstance(value, tuple) else "list", tuple(structure(item) for item in value))
        if type(value) is dict and all(isinstance(key, str) for key in value):
            return ("dict", tuple((key, structure(item)) for key, item in value.items()))
        return STRANGE

    return structure(result), tensors


def put_together(structure: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """The result of this structure. Dynamo traces this: plain code only."""
    if structure is None:
        return None
    if isinstance(structure, int):
        return tensors[structure]
    kind, items = structure
    if kind == "tuple":
        return tuple([put_together(item, tensors) for item in items])
    if kind == "list":
        return [put_together(item, tensors) for item in items]
    return {key: put_together(item, tensors) for key, item in items}


def is_strange(structure: Any) -> bool:
    """Whether a result has parts that an operator cannot give back."""
    if isinstance(structure, tuple):
        return any(is_strange(part) for part in structure)
    return bool(structure == STRANGE)


def fitting(calls: Sequence[Seen]) -> str | None:
    """The form that all these calls have, None when there is none. Sizes are told by the sizes of one of the call's
    tensors, where they can: of the one in the same place, else of the first that will do."""
    last = calls[-1]
    if is_strange(last.structure) or any(one.structure != last.structure for one in calls):
        return None
    leaves = []
    for number, leaf in enumerate(last.leaves):
        if any(one.leaves[number].dtype != leaf.dtype for one in calls):
            return None
        sizes = _expressed(calls, number)
        if sizes is None:
            return None
        leaves.append(f"{','.join(sizes)}:{leaf.dtype}:{','.join(map(str, calls[0].leaves[number].order))}")
    return f"{last.structure!r}|{';'.join(leaves)}"


def _expressed(calls: Sequence[Seen], number: int) -> list[str] | None:
    if any(len(one.leaves[number].sizes) != len(calls[-1].leaves[number].sizes) for one in calls):
        return None
    count = len(calls[-1].inputs)
    nearest = sorted(range(count), key=lambda tensor: (tensor != number, tensor))
    for tensor in nearest:
        found = _by_one(calls, number, tensor)
        if found is not None:
            return found
    dims = range(len(calls[-1].leaves[number].sizes))
    sizes = [_size(calls, number, dim, nearest) for dim in dims]
    return None if None in sizes else [size for size in sizes if size is not None]


def _by_one(calls: Sequence[Seen], number: int, tensor: int) -> list[str] | None:
    """All sizes by those of one tensor, each of which is used once."""
    used: set[int] = set()
    found: list[str] = []
    for dim in range(len(calls[-1].leaves[number].sizes)):
        parts = next((p for p in _parts(calls, tensor, dim, used) if _holds(calls, number, dim, tensor, p)), None)
        if parts is None:
            return None
        used.update(parts)
        found.append("*".join(f"{tensor}.{part}" for part in parts))
    return found


def _parts(calls: Sequence[Seen], tensor: int, dim: int, used: set[int]) -> Iterator[tuple[int, ...]]:
    """Sizes of a tensor, and products of two, that a size may be: the same one first."""
    free = [other for other in range(len(calls[-1].inputs[tensor])) if other not in used]
    yield from ((other,) for other in sorted(free, key=lambda other: (other != dim, other)))
    yield from permutations(free, 2)


def _holds(calls: Sequence[Seen], number: int, dim: int, tensor: int, parts: tuple[int, ...]) -> bool:
    for one in calls:
        product = 1
        for part in parts:
            product *= one.inputs[tensor][part]
        if product != one.leaves[number].sizes[dim]:
            return False
    return True


def _size(calls: Sequence[Seen], number: int, dim: int, tensors: Sequence[int]) -> str | None:
    """One size by itself: one of any tensor, a number, or, of several calls, a size and a number more."""
    for tensor in tensors:
        for parts in _parts(calls, tensor, dim, set()):
            if len(parts) == 1 and _holds(calls, number, dim, tensor, parts):
                return f"{tensor}.{parts[0]}"
    own = [one.leaves[number].sizes[dim] for one in calls]
    if len(set(own)) == 1:
        return str(own[0])
    for tensor in tensors:
        for other in range(len(calls[-1].inputs[tensor])):
            more = {size - one.inputs[tensor][other] for size, one in zip(own, calls, strict=True)}
            if len(more) == 1 and min(more) > 0:
                return f"{tensor}.{other}+{min(more)}"
    return None


#: A size: the product of these (tensor, dimension), and so many more; without any, that number.
Size = tuple[tuple[tuple[int, int], ...], int]


@lru_cache(maxsize=1024)
def parsed(form: str) -> tuple[Any, tuple[tuple[tuple[Size, ...], torch.dtype, Sizes], ...]]:
    """The structure of a form, and of each tensor its sizes, dtype and order."""
    structure, _, leaves = form.rpartition("|")
    tensors = []
    for leaf in leaves.split(";") if leaves else []:
        sizes, dtype, order = leaf.split(":")
        dims = tuple(int(dim) for dim in order.split(",") if dim)
        tensors.append((tuple(_read(size) for size in sizes.split(",") if size), getattr(torch, dtype), dims))
    return ast.literal_eval(structure), tuple(tensors)


def _read(size: str) -> Size:
    base, _, more = size.partition("+")
    if "." not in base:
        return (), int(base)
    factors = (factor.partition(".") for factor in base.split("*"))
    return tuple((int(tensor), int(dim)) for tensor, _, dim in factors), int(more or 0)


def promised(form: str, tensors: Sequence[torch.Tensor]) -> list[tuple[list[int], list[int], torch.dtype]]:
    """Sizes, strides and dtype of each tensor of a result, for a call with these tensors."""
    found = []
    for sizes, dtype, order in parsed(form)[1]:
        shape = [_evaluated(size, tensors) for size in sizes]
        strides, step = [1] * len(shape), 1
        for dim in reversed(order):
            strides[dim] = step
            step = step * shape[dim]
        found.append((shape, strides, dtype))
    return found


def _evaluated(size: Size, tensors: Sequence[torch.Tensor]) -> int:
    factors, more = size
    if not factors:
        return more
    product: int = 1
    for tensor, dim in factors:
        product = product * tensors[tensor].shape[dim]
    return product + more if more else product
