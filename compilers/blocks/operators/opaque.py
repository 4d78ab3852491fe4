"""The operator that stands for foreign code in a compiled graph.

It is said to change ``order``, which nothing else uses: so no compiler drops a call whose result is unused, merges two
that look the same, or changes their order. One operator for each number of results: functionalization takes no lists.
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

    operator = torch.library.custom_op(f"{NAMESPACE}::{name}", foreign, mutates_args=("order",), schema=schema)
    operator.register_fake(fake)
    _kept.append(operator)
    return name


_kept: list[Any] = []
