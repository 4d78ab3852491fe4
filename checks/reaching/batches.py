"""Which of the tensors that a module is called with carry the batch: seen in two runs, with a batch of 2 and one of 3.

A first picture of batch 1 does not tell: tables of positions and modulations have a 1 there too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from .module_call import ModuleCall, TensorSpec
from .reach import Reach

#: For every tensor of a module's calls, in their order: whether its first dimension is the batch.
Batched = tuple[bool, ...]

#: Tells that of modules, by path. Of those that it leaves out nobody knows.
FindBatched = Callable[[Collection[str]], dict[str, Batched]]

BATCHES = (2, 3)


def batched(path: str, at_two: Reach, at_three: Reach) -> Batched | None:
    """What two runs of a model, with batches of 2 and 3, show of a module; None where a size is neither the batch nor
    the same in both, as with frames in it."""
    two, three = ([tuple(_tensors(call)) for call in run.calls.get(path, ())] for run in (at_two, at_three))
    if not two or [len(call) for call in two] != [len(call) for call in three]:
        return None
    found = {
        tuple(_carries(a.shape, b.shape) for a, b in zip(call, other, strict=True))
        for call, other in zip(two, three, strict=True)
    }
    (carries, *others) = found
    return None if others or None in carries else tuple(map(bool, carries))


def _carries(at_two: tuple[int, ...], at_three: tuple[int, ...]) -> bool | None:
    if at_two[1:] != at_three[1:]:
        return None  # Cosmos has the batch behind frames, height and width
    if at_two[:1] == at_three[:1]:
        return False
    return True if (at_two[:1], at_three[:1]) == (BATCHES[:1], BATCHES[1:]) else None


def _tensors(call: ModuleCall) -> Iterator[TensorSpec]:
    """All of a call, in the order in which they are given."""
    for value in (*call.args, *call.kwargs.values()):
        yield from _in(value)


def _in(value: Any) -> Iterator[TensorSpec]:
    if isinstance(value, TensorSpec):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _in(item)
