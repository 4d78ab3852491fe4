"""What is known of a block's batch, and the cheap look before each run: what does not fit runs in another graph."""

from __future__ import annotations

import pytest
import torch
from onediff_pack.compilers.backends.inductor import registered
from onediff_pack.compilers.backends.inductor.effort import ONE_FILE
from onediff_pack.compilers.blocks.batches import LARGEST, Batches, carry, form_of
from onediff_pack.patching.user_code import Cancel

MASKED, PLAIN = (3, 3, 2), (3, 3)


def test_forms_without_a_mask_are_looked_for_once_where_they_come_up():
    asked = []

    def find(paths):
        asked.append("masked")
        yield {"block": {MASKED: (True, True, True)}}
        asked.append("plain")
        yield {"block": {MASKED: (True, False, True), PLAIN: (True, True)}}

    known = Batches(find, ["block"])
    assert asked == []
    assert known.of("block", MASKED) == (True, True, True)
    assert asked == ["masked"]
    assert known.of("block", PLAIN) == (True, True)
    assert known.of("block", MASKED) == (True, True, True), "what was found first holds"
    assert known.of("block", (4,)) is None
    assert known.of("elsewhere", PLAIN) is None
    assert asked == ["masked", "plain"]


def test_nobody_to_ask_knows_nothing():
    assert Batches().of("block", PLAIN) is None


@pytest.mark.parametrize(
    ("shapes", "fits"),
    [
        (((2, 8), (2, 4), (1, 4)), True),
        (((1, 8), (1, 4), (1, 4)), True),
        (((2, 8), (1, 4), (1, 4)), False),
        (((0, 8), (0, 4), (1, 4)), False),
        (((LARGEST, 1), (LARGEST, 1), (1, 1)), True),
        (((LARGEST + 1, 1), (LARGEST + 1, 1), (1, 1)), False),
    ],
)
def test_tensors_that_carry_the_batch_have_one_that_is_not_too_large(shapes, fits):
    tensors = [torch.empty(shape, device="meta") for shape in shapes]
    assert form_of(tensors) == (2, 2, 2)
    assert carry((True, True, False), tensors) is fits


class Cancelled(Exception):
    """What the host raises after Cancel."""


def cancelled() -> None:
    raise Cancelled


@pytest.mark.parametrize(
    ("error", "cancel", "raised", "files"),
    [
        (None, Cancel(), None, [True]),
        (NotImplementedError("no such operation in C++"), Cancel(), None, [True, False]),
        (NotImplementedError("the compiler was ended"), Cancel(cancelled, Cancelled), Cancelled, [True]),
        (torch.OutOfMemoryError("CUDA out of memory"), Cancel(), torch.OutOfMemoryError, [True]),
    ],
)
def test_what_cannot_be_one_file_is_compiled_as_many_but_not_after_cancel(error, cancel, raised, files):
    tried = []

    def compile_fx(config_patches):
        tried.append(config_patches[ONE_FILE])
        if config_patches[ONE_FILE] and error is not None:
            raise error
        return "compiled"

    config = {"layout_optimization": False, ONE_FILE: True}
    if raised is None:
        assert registered.in_one_file_or_many(compile_fx, config, cancel) == "compiled"
    else:
        with pytest.raises(raised):
            registered.in_one_file_or_many(compile_fx, config, cancel)
    assert tried == files
