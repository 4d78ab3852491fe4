"""Comparing two results: the figures, however large the tensors are."""

from __future__ import annotations

import math

import pytest
import torch
from onediff_pack.compilers.blocks import parity
from onediff_pack.compilers.blocks.parity import compare


@pytest.mark.parametrize("at_a_time", [7, 2**22])
def test_figures_are_those_of_the_whole_tensors(monkeypatch, at_a_time):
    monkeypatch.setattr(parity, "AT_A_TIME", at_a_time)
    torch.manual_seed(0)
    theirs = torch.randn(3, 5, 4).transpose(0, 1)
    ours = theirs + 1e-3 * torch.randn(5, 3, 4)
    found = compare((ours,), (theirs,))
    a, b = ours.double(), theirs.double()
    assert found.relative == pytest.approx(((a - b).norm() / b.norm()).item())
    assert found.max_abs == pytest.approx((a - b).abs().max().item())
    assert found.cosine == pytest.approx(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item())


def test_infinities_at_the_same_places_are_equal_and_elsewhere_are_not():
    theirs = torch.tensor([1.0, math.inf, math.nan])
    assert compare(theirs.clone(), theirs).relative == 0
    assert compare(torch.tensor([1.0, 2.0, math.nan]), theirs).relative == math.inf


def test_nothing_and_zeros_are_equal_to_themselves():
    assert compare(torch.empty(0), torch.empty(0)).passed
    assert compare(torch.zeros(3), torch.zeros(3)).passed
    assert not compare(torch.ones(3), torch.zeros(3)).passed
