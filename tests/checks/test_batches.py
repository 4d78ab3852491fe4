"""Which tensors carry the batch is seen in two runs: a first picture of batch 1 does not tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from onediff_pack.checks.reaching.batches import BATCHES, batched
from onediff_pack.checks.reaching.reach import reach
from torch import nn


@dataclass
class Modulation:
    shift: torch.Tensor
    gate: torch.Tensor | None = None


class Block(nn.Module):
    """A block as a model calls it: what it is called with is all that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor, *args: Any, transformer_options: Any = None, **kwargs: Any) -> torch.Tensor:
        return x * self.weight


class Model(nn.Module):
    def __init__(self, call: Any) -> None:
        super().__init__()
        self.block = Block()
        self.call = call

    def forward(self, x: torch.Tensor) -> None:
        self.call(self.block, x, x.shape[0])


def found(call: Any) -> dict[tuple[int, ...], Any]:
    def example(n: int) -> Any:
        return lambda copy, width: copy(torch.ones(n, 4, 8))

    runs = [reach(Model(call), [example(n)], watch=["block"]) for n in BATCHES]
    return batched("block", *runs)


#: What is called, and by the numbers of dimensions what carries the batch.
CALLS = {
    "tables and modulations of batch 1": (
        lambda block, x, n: block(x, torch.ones(1, 4), vec=torch.ones(n, 1, 8)),
        {(3, 2, 3): (1, 0, 1)},
    ),
    "a table of as many rows as the first batch": (
        lambda block, x, n: block(x, torch.ones(2, 4)),
        {(3, 2): (1, 0)},
    ),
    "in a tuple, a dict and a dataclass": (
        lambda block, x, n: block(
            x, (torch.ones(n), torch.ones(3)), {"a": torch.ones(n, 2)}, mod=Modulation(torch.ones(n))
        ),
        {(3, 1, 1, 2, 1): (1, 1, 0, 1, 1)},
    ),
    "options do not count": (
        lambda block, x, n: block(x, transformer_options={"sigmas": torch.ones(n)}),
        {(3,): (1,)},
    ),
    "a number without dimensions": (lambda block, x, n: block(x, torch.tensor(1.0)), {(3, 0): (1, 0)}),
    "another number of tensors": (lambda block, x, n: block(x, *[torch.ones(n)] * n), {}),
    "frames in the batch of all": (lambda block, x, n: block(x.repeat(5, 1, 1), torch.ones(5 * n)), {(3, 1): (1, 1)}),
    "frames in one batch alone": (lambda block, x, n: block(x.repeat(5, 1, 1), torch.ones(n)), {(3, 1): None}),
    "the batch elsewhere": (lambda block, x, n: block(x.transpose(0, 1)), {(3,): None}),
    "neither": (lambda block, x, n: block(x, torch.ones(n + 3, 4)), {(3, 2): None}),
    "no batch at all": (lambda block, x, n: block(torch.ones(4, 8)), {(2,): None}),
    "two calls alike": (lambda block, x, n: (block(x), block(x[:, :2])), {(3,): (1,)}),
    "two calls that differ": (lambda block, x, n: (block(x), block(x[:1])), {(3,): None}),
    "with a mask and without": (
        lambda block, x, n: (block(x, torch.ones(n, 4)), block(x)),
        {(3, 2): (1, 1), (3,): (1,)},
    ),
    "never called": (lambda block, x, n: None, {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_carries_the_batch_is_told_from_what_does_not(name):
    call, expected = CALLS[name]
    assert found(call) == expected
