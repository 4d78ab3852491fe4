"""Which of the tensors that a module is called with carry the batch: seen in two runs, with a batch of 2 and one of 3.

A first picture of batch 1 does not tell: tables of positions and modulations have a 1 there too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from .reach import ModuleCall, Reach, TensorSpec

#: For every tensor of a module's calls, in their order: how many times its first dimension is the batch. 0: it is not.
Batched = tuple[int, ...]

#: Tells that of modules, by path. Of those that it leaves out nobody knows.
FindBatched = Callable[[Collection[str]], dict[str, Batched]]

BATCHES = (2, 3)


def batched(path: str, at_two: Reach, at_three: Reach) -> Batched | None:
    """What two runs of a model, with batches of 2 and 3, show of a module; None where they do not agree on a number."""
    two, three = ([tuple(_tensors(call)) for call in run.calls.get(path, ())] for run in (at_two, at_three))
    if not two or [len(call) for call in two] != [len(call) for call in three]:
        return None
    found = {
        tuple(_times(a.shape, b.shape) for a, b in zip(call, other, strict=True))
        for call, other in zip(two, three, strict=True)
    }
    times = found.pop()
    return None if found or None in times else tuple(n for n in times if n is not None)


def _times(at_two: tuple[int, ...], at_three: tuple[int, ...]) -> int | None:
    if not at_two or not at_three or at_two[0] == at_three[0]:
        return 0
    times, rest = divmod(at_two[0], BATCHES[0])
    return times if not rest and at_three[0] == times * BATCHES[1] else None


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
