"""Strides of indices, found quickly while Inductor writes C++.

For each index of each kernel Inductor asks by how much it grows with a loop variable, and finds that out with sympy's
general ``simplify``, twice (torch 2.11, ``torch._inductor.codegen.cpp.stride_at_vec_range``). Nearly all indices are
sums of products, whose difference need only be expanded.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any
from unittest import mock

import sympy

_NAME = "stride_at_vec_range"


@contextlib.contextmanager
def quick_strides(device: str) -> Iterator[None]:
    """While it is open, Inductor is told strides in this way, where it writes C++ for a type of device. Others who
    compile at the same moment get the same answers."""
    codegen: Any = importlib.import_module("torch._inductor.codegen.cpp") if device == "cpu" else None
    original = getattr(codegen, _NAME, None)
    if original is None:
        yield
        return
    with mock.patch.object(codegen, _NAME, _quick(original)):
        yield


def _quick(original: Callable[..., sympy.Expr]) -> Callable[..., sympy.Expr]:
    @lru_cache
    def stride(index: sympy.Expr, variable: sympy.Symbol, vector: int | None = None) -> sympy.Expr:
        return stride_of(index, variable) if is_sum_of_products(index) else original(index, variable, vector)

    return stride


def is_sum_of_products(index: sympy.Expr) -> bool:
    """Whether nothing but whole numbers and variables is added and multiplied in it."""
    return all(
        isinstance(part, sympy.Symbol | sympy.Integer | sympy.Add | sympy.Mul)
        or (isinstance(part, sympy.Pow) and part.exp.is_Integer and part.exp > 0)
        for part in sympy.preorder_traversal(index)
    )


def stride_of(index: sympy.Expr, variable: sympy.Symbol) -> sympy.Expr:
    """By how much a sum of products grows with a variable: 64 for ``64*d0 + d1`` and d0."""
    if not index.has(variable):
        return sympy.S.Zero
    return sympy.expand(index.xreplace({variable: variable + 1}) - index)
