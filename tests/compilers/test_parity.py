"""Comparing two results: the figures, however large the tensors are."""

from __future__ import annotations

import math

import pytest
import torch
from onediff_pack.compilers.blocks import parity
from onediff_pack.compilers.blocks.parity import clone_inputs, compare


@pytest.mark.parametrize("size", [1.0, 1e-4])
@pytest.mark.parametrize("at_a_time", [7, 2**22])
def test_figures_are_those_of_the_whole_tensors(monkeypatch, at_a_time, size):
    monkeypatch.setattr(parity, "AT_A_TIME", at_a_time)
    torch.manual_seed(0)
    theirs = size * torch.randn(3, 5, 4).transpose(0, 1)
    ours = theirs + 1e-3 * size * torch.randn(5, 3, 4)
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
    assert compare(torch.zeros(3), torch.zeros(3)).cosine == 1.0
    assert not compare(torch.ones(3), torch.zeros(3)).passed


def test_a_result_passes_within_the_tolerance_of_its_dtype():
    theirs = torch.ones(4)
    assert compare(theirs * 1.00005, theirs).passed
    assert not compare(theirs * 1.0002, theirs).passed
    assert compare(theirs.half() * 1.005, theirs.half()).passed
    assert not compare(theirs.bfloat16() * 1.1, theirs.bfloat16()).passed
    few = theirs.to(torch.float8_e4m3fn)
    assert compare(few, few).tolerance == 4e-2, "of the dtype with the fewest bits that is listed"


def test_sums_do_not_overflow_the_dtype_of_the_results():
    theirs = torch.full((4096,), 100.0).half()
    assert compare(theirs * 1.25, theirs).relative == pytest.approx(0.25)


NOT_A_NUMBER = torch.tensor([1.0, 1.0, 1.0, math.nan])


@pytest.mark.parametrize(
    ("ours", "tolerance", "dtype"),
    [
        (torch.ones(3), 1e-4, torch.float32),
        (torch.ones(4).double(), 1e-4, torch.float32),
        (NOT_A_NUMBER, 1e-4, torch.float32),
        ("text", 1e-4, torch.float32),
        ((torch.ones(4),), 0.0, None),
    ],
)
def test_another_shape_dtype_or_form_is_infinitely_far(ours, tolerance, dtype):
    found = compare(ours, torch.ones(4))
    assert (found.tolerance, found.dtype) == (tolerance, dtype)
    assert (found.passed, found.max_abs, found.relative, found.cosine) == (False, math.inf, math.inf, 0.0)
    assert found.difference == (
        "its compiled result has NaN, Inf, other whole numbers or another form than the uncompiled one."
    )
    assert found.as_dict()["relative"] is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (torch.tensor([1, 2], dtype=torch.int32), torch.tensor([1, 2])),
        (torch.tensor([True]), torch.tensor([False])),
        (torch.tensor([1j]), torch.tensor([2j])),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.inf])),
        (torch.tensor([-math.inf]), torch.tensor([math.inf])),
        (3, 4),
        (True, 1),
        (0.5, 0.6),
        ("nhd", "hnd"),
        (None, torch.ones(1)),
        (torch.ones(1), 1.0),
    ],
)
def test_another_value_of_any_kind_does_not_pass(ours, theirs):
    first = torch.ones(4)
    assert not compare((first, ours), (first.clone(), theirs)).passed
    assert compare((first, theirs), (first.clone(), theirs)).passed


def test_complex_numbers_are_compared_as_others_are():
    theirs = torch.full((4,), 1 + 1j)
    assert compare(theirs * (1 + 1e-6), theirs).passed
    assert compare(theirs * 1.01, theirs).relative == pytest.approx(0.01, rel=1e-3)


def test_the_worst_of_several_results_counts_figure_by_figure():
    """Flux's blocks give picture and text, here in two dtypes."""
    large, small = torch.full((4,), 100.0), torch.ones(4).half()
    opposite = torch.tensor([1.0, -1.0, 1.0, -1.0])
    ours = {"img": large + 0.001 * opposite, "txt": small * 1.05, "count": 3, "index": torch.tensor([1, 2])}
    theirs = {"img": large, "txt": small, "count": 3, "index": torch.tensor([1, 2])}
    found = compare(ours, theirs)
    assert found.relative == pytest.approx(0.05, rel=0.02)
    assert (found.tolerance, found.dtype) == (1e-2, torch.float16)
    assert found.max_abs == pytest.approx(0.05, rel=0.02)
    assert found.cosine < 1
    assert (
        found.difference
        == "its compiled result differs from the uncompiled one by 5.0e-02 relative; 1e-02 is accepted."
    )
    assert found.as_dict() == {
        "max_abs": found.max_abs,
        "relative": found.relative,
        "cosine": found.cosine,
        "tolerance": 1e-2,
        "passed": False,
    }
    # Twice the tolerance of float32 is worse than half of float16's, although the figure is smaller.
    found = compare((large * 1.0002, small * 1.005), (large, small))
    assert (found.tolerance, found.dtype, found.passed) == (1e-4, torch.float32, False)


def test_without_anything_to_compare_nothing_differs():
    found = compare((3, None), (3, None))
    assert (found.passed, found.relative, found.max_abs, found.cosine) == (True, 0.0, 0.0, 1.0)


def test_clones_are_of_the_kind_that_dynamo_saw():
    with torch.inference_mode():
        inferred = torch.ones(2)
    plain = torch.ones(2)
    (first, second), _ = clone_inputs(((inferred, plain), {}))
    assert (first.is_inference(), second.is_inference()) == (True, False)
    with torch.inference_mode():
        _, second = clone_inputs((inferred, plain))
    assert not second.is_inference()
