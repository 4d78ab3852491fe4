"""The operator that stands for foreign code in a compiled graph.

It is said to change ``order``, which nothing else uses: so no compiler drops a call whose result is unused, merges two
that look the same, or changes their order. One operator for each number of results: functionalization takes no lists.

It is registered without what ``torch.library.custom_op`` puts around a function at each call, in Python: a count of
changes of ``order``, of which nobody reads the value, and a look whether results are inputs, which `BlockCall` takes
care of.
"""

from __future__ import annotations

from typing import Any

import torch

from ....memo import cached
from . import block_call
from .result_form import promised

NAMESPACE = "onediff_comfy"

with torch.inference_mode(False):
    ORDER = torch.zeros(())


@cached
def registered(results: int) -> str:
    """The name of the operator with so many results, registered at the first call."""
    name = f"foreign_{results}"
    returns = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
    schema = f"(Tensor(a!) order, Tensor[] tensors, SymInt[] numbers, str role, str call, str form) -> {returns}"

    def as_returned(tensors: list[torch.Tensor]) -> Any:
        return tensors[0] if results == 1 else tuple(tensors)

    def foreign(
        order: torch.Tensor, tensors: list[torch.Tensor], numbers: list[int], role: str, call: str, form: str
    ) -> Any:
        return as_returned(block_call.current().in_graph(tensors, numbers, role, call, form))

    def fake(
        order: torch.Tensor, tensors: list[torch.Tensor], numbers: list[int], role: str, call: str, form: str
    ) -> Any:
        device = tensors[0].device
        return as_returned(
            [
                torch.empty_strided(sizes, strides, dtype=dtype, device=device)
                for sizes, strides, dtype in promised(form, tensors)
            ]
        )

    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, foreign, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    return name


_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
