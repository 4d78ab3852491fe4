"""Which of the tensors that a module is called with carry the batch: seen in two runs, with a batch of 2 and one of 3.

A first picture of batch 1 does not tell: tables of positions and modulations have a 1 there too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from fractions import Fraction
from typing import Any

from .module_call import ModuleCall, TensorSpec
from .reach import Reach

#: How many dimensions each tensor of a call has. A mask more or less is another form.
Form = tuple[int, ...]

#: For every tensor of a module's calls, in their order: whether its first dimension is the batch, or so many for each
#: picture of it, the same number in all.
Batched = tuple[bool, ...]

#: That of a module, for every form in which it is called; None where calls of a form differ.
Forms = dict[Form, Batched | None]

#: Tells that of modules, by path, and step by step: the likeliest forms first. Of those left out nobody knows.
FindBatched = Callable[[Collection[str]], Iterator[dict[str, Forms]]]

BATCHES = (2, 3)


def batched(path: str, at_two: Reach, at_three: Reach) -> Forms:
    """What two runs of a model, with batches of 2 and 3, show of a module; nothing of a form in which a size neither
    goes with the batch nor is the same in both."""
    two, three = ([tuple(_tensors(call)) for call in run.calls.get(path, ())] for run in (at_two, at_three))
    if [len(call) for call in two] != [len(call) for call in three]:
        return {}
    found: Forms = {}
    for call, other in zip(two, three, strict=True):
        form = tuple(len(tensor.shape) for tensor in call)
        carries = _carry([(a.shape, b.shape) for a, b in zip(call, other, strict=True)])
        found[form] = carries if found.get(form, carries) == carries else None
    return found


def _carry(shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Batched | None:
    """Of one call, None where nobody can tell."""
    each = [_for_each(*shape) for shape in shapes]
    numbers = {number for number in each if number != 0}
    return None if None in numbers or len(numbers) != 1 else tuple(number != 0 for number in each)


def _for_each(at_two: tuple[int, ...], at_three: tuple[int, ...]) -> Fraction | int | None:
    """How many of the first dimension there are for each picture, 0 where it does not go with the batch."""
    if at_two == at_three:
        return 0
    if len(at_two) != len(at_three) or at_two[1:] != at_three[1:]:
        return None  # Cosmos has the batch behind frames, height and width
    number = Fraction(at_two[0], BATCHES[0])
    return number if at_three[0] == number * BATCHES[1] else None


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
