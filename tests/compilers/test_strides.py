"""Strides of indices are found quickly while Inductor writes C++, and are the ones that it finds itself."""

from __future__ import annotations

from typing import Any

import pytest
import sympy
import torch
from onediff_pack.compilers.backends.inductor.backend import InductorBackend
from onediff_pack.compilers.backends.inductor.strides import quick_strides
from onediff_pack.compilers.blocks.shared_graph import SharedGraph
from torch import nn
from torch._inductor.codegen import cpp
from torch.utils._sympy.functions import FloorDiv, ModularIndexing

d0, d1, s0, u0 = sympy.symbols("d0 d1 s0 u0", integer=True, nonnegative=True)

SUMS = [
    sympy.Integer(7),
    d0,
    64 * d0 + d1,
    s0 * d0 + 3 * d1 + 5,
    d1 + s0 * (d0 + u0 * 4) * 2,
    d0 * d0 + s0**2 * d1,
    d1 * (s0 + 1) + d0 * (u0 * s0 + u0),
]
OTHERS = [FloorDiv(d0, 16) * 3 + d1, ModularIndexing(d0, 1, 32), d0 + FloorDiv(s0, 2) * d1]


class Transposes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).sin().sum(-1) + x.mean(1)[:, :1]


@pytest.mark.parametrize("index", [*SUMS, *OTHERS], ids=str)
@pytest.mark.parametrize("variable", [d0, d1], ids=str)
def test_a_stride_is_the_one_that_inductor_finds(index: sympy.Expr, variable: sympy.Symbol) -> None:
    itself = cpp.stride_at_vec_range(index, variable, 16)
    with quick_strides("cpu"):
        found = cpp.stride_at_vec_range(index, variable, 16)
    assert sympy.expand(found - itself) == 0
    assert found.is_number == itself.is_number
    assert found.free_symbols == itself.free_symbols


def test_a_block_is_compiled_without_sympys_general_simplify(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("takes long")

    module, x, original = Transposes().eval(), torch.randn(2, 48, 64), cpp.stride_at_vec_range
    run = InductorBackend().compile(module, SharedGraph(Transposes.forward, "Transposes"), "fast start")
    for function in (cpp.stride_at, cpp.simplify_index_in_vec_range, cpp.stride_at_vec_range):
        function.cache_clear()
    monkeypatch.setattr(sympy, "simplify", refuse)
    with torch.inference_mode():
        torch.testing.assert_close(run(x), module(x))
    assert cpp.stride_at_vec_range is original
