"""Forwards that modules are given for a while."""

from __future__ import annotations

from typing import Any

import pytest
from onediff_pack.patching.forwards import swapped_forwards
from torch import nn


def modules() -> tuple[Any, Any]:
    return nn.Identity(), nn.Identity()


def own() -> str:
    return "own"


def first() -> str:
    return "first"


def second() -> str:
    return "second"


def test_a_module_that_was_swapped_twice_gets_back_what_it_had():
    """Two patches may name one module."""
    plain, patched = modules()
    patched.forward = own
    with swapped_forwards([(plain, first), (patched, first), (plain, second), (patched, second)]):
        assert (plain.forward(), patched.forward()) == ("second", "second")
    assert patched.forward() == "own"
    assert "forward" not in vars(plain)


def test_what_was_there_comes_back_after_an_error_too():
    plain, patched = modules()
    patched.forward = own
    with pytest.raises(ValueError, match="on purpose"), swapped_forwards([(plain, first), (patched, first)]):
        raise ValueError("on purpose")
    assert patched.forward() == "own"
    assert "forward" not in vars(plain)
