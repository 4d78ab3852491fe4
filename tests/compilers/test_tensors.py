"""Tensors among a block's inputs: those in dataclasses too, and views of the same memory."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from onediff_pack.compilers.backends.plain_layout import in_plain_layout
from onediff_pack.compilers.blocks.parity import clone_inputs
from onediff_pack.compilers.blocks.tensors import overlapping, tensors_of


@dataclass(frozen=True)
class Modulation:
    shift: torch.Tensor
    scale: torch.Tensor
    name: str = "img"


def test_clones_reach_into_dataclasses():
    shared = torch.ones(2, 3)
    inputs = ((shared, [Modulation(shared, torch.zeros(3))]), {"x": 1})
    ((first, (modulation,)), _), clones = clone_inputs(inputs), tensors_of(inputs)
    assert modulation.shift is first, "one tensor given twice stays one"
    modulation.shift.add_(1)
    assert (first == 2).all()
    assert (shared == 1).all()
    assert modulation.name == "img"
    assert len(clones) == 3


def test_layouts_are_made_plain_in_dataclasses_and_what_is_written_comes_back():
    transposed = torch.arange(24.0).reshape(2, 3, 4).transpose(1, 2)
    modulation = Modulation(transposed, torch.zeros(3))
    plain, copies = in_plain_layout(modulation)
    assert plain.shift.is_contiguous()
    assert plain.scale is modulation.scale
    plain.shift.zero_()
    for original, copy in copies:
        original.copy_(copy)
    assert (modulation.shift == 0).all()


MEMORY = torch.zeros(4, 6)


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ((MEMORY, MEMORY), False),  # one tensor given twice is seen as one
        ((MEMORY, MEMORY.clone()), False),
        (MEMORY.chunk(3, dim=1), False),
        (MEMORY.chunk(2, dim=0), False),
        ((MEMORY, MEMORY[1:]), True),
        ((MEMORY[:, :3], MEMORY[:, 2:]), True),
        ((MEMORY, MEMORY.t()), True),
        ((MEMORY[:1].expand(4, 6), MEMORY[1:]), False),
        ((MEMORY[:1].expand(4, 6), MEMORY[0]), True),
        ((MEMORY, [Modulation(MEMORY[0], torch.zeros(3))]), True),
        ((MEMORY, MEMORY.view(torch.int32)), True),
    ],
)
def test_views_of_the_same_memory(views, expected):
    assert overlapping(views) is expected
