"""Compares a compiled result with the uncompiled one on the same input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .tensors import map_tensors

#: Largest accepted ‖compiled - uncompiled‖ / ‖uncompiled‖ of a block's output, by the dtype it computes in. About ten
#: times what reordering the sums of a block costs in that dtype.
TOLERANCES = {
    torch.float64: 1e-8,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 4e-2,
}


#: Numbers that are compared at a time: a large video's activations in float64 would not fit beside the model.
AT_A_TIME = 2**22


@dataclass(frozen=True)
class Parity:
    """Differences of one block's outputs, the worst over them. ``relative`` is ‖c-u‖₂/‖u‖₂; ``dtype`` the worst one's
    when it was computed uncompiled."""

    max_abs: float
    relative: float
    cosine: float
    tolerance: float
    dtype: torch.dtype | None = None

    @property
    def passed(self) -> bool:
        return self.relative <= self.tolerance

    @property
    def difference(self) -> str:
        """What is wrong with it, for people."""
        if not math.isfinite(self.relative):
            return "its compiled result has NaN, Inf, other whole numbers or another form than the uncompiled one."
        return (
            f"its compiled result differs from the uncompiled one by {self.relative:.1e} relative;"
            f" {self.tolerance:.0e} is accepted."
        )

    def as_dict(self) -> dict[str, Any]:
        """The record's ``parity`` field. JSON has no NaN and no infinity: those are null."""
        values = {"max_abs": self.max_abs, "relative": self.relative, "cosine": self.cosine}
        return {
            **{name: value if math.isfinite(value) else None for name, value in values.items()},
            "tolerance": self.tolerance,
            "passed": self.passed,
        }


_DIFFERENT = Parity(math.inf, math.inf, 0.0, 0.0)


def compare(compiled: Any, uncompiled: Any) -> Parity:
    """Parity of two results: tensors, or tuples, lists and dicts of them, and of plain values.

    NaN or Inf where the other has something else, other whole numbers, truth values or words, and results of different
    form, count as infinitely different.
    """
    ours, spec = pytree.tree_flatten(compiled)
    theirs, expected_spec = pytree.tree_flatten(uncompiled)
    if spec != expected_spec:
        return _DIFFERENT
    found = [_compare_leaves(a, b) for a, b in zip(ours, theirs, strict=True)]
    return worst([parity for parity in found if parity is not None])


def _compare_leaves(ours: Any, theirs: Any) -> Parity | None:
    """None where two values are equal that are no tensors of numbers with a point, or of a kind that is not known."""
    if isinstance(theirs, torch.Tensor):
        if theirs.is_floating_point():
            return _compare_tensors(ours, theirs)
        if not isinstance(ours, torch.Tensor) or (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            return _DIFFERENT
        if theirs.is_complex():
            return _compare_tensors(torch.view_as_real(ours), torch.view_as_real(theirs))
        return None if torch.equal(ours, theirs) else _DIFFERENT
    if type(ours) is not type(theirs):
        return _DIFFERENT
    if type(theirs) is float:
        return _compare_tensors(*(torch.tensor(value, dtype=torch.float32) for value in (ours, theirs)))
    return _DIFFERENT if type(theirs) in (bool, int, str) and ours != theirs else None


def worst(parities: list[Parity]) -> Parity:
    """The worst of several, figure by figure; of none, a perfect one. The tolerance is the worst one's."""
    if not parities:
        return Parity(0.0, 0.0, 1.0, TOLERANCES[torch.float32])
    leading = max(parities, key=lambda p: p.relative / p.tolerance if p.tolerance else math.inf)
    return Parity(
        max_abs=max(p.max_abs for p in parities),
        relative=leading.relative,
        cosine=min(p.cosine for p in parities),
        tolerance=leading.tolerance,
        dtype=leading.dtype,
    )


def _compare_tensors(ours: torch.Tensor, theirs: torch.Tensor) -> Parity:
    tolerance = TOLERANCES.get(theirs.dtype, TOLERANCES[torch.bfloat16])
    if not isinstance(ours, torch.Tensor) or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return Parity(math.inf, math.inf, 0.0, tolerance, theirs.dtype)
    wide = torch.float32 if theirs.device.type == "mps" else torch.float64  # which Apple's GPUs lack
    sums = torch.zeros(4, dtype=wide, device=theirs.device)  # |a - b|², |b|², |a|² and a·b
    largest = torch.zeros((), dtype=wide, device=theirs.device)
    for mine, its in zip(ours.flatten().split(AT_A_TIME), theirs.flatten().split(AT_A_TIME), strict=True):
        a, b = mine.to(wide), its.to(wide)
        finite = torch.isfinite(b)
        if not torch.equal(torch.isfinite(a), finite) or not torch.equal(_not_finite(a), _not_finite(b)):
            return Parity(math.inf, math.inf, 0.0, tolerance, theirs.dtype)
        a, b = torch.where(finite, a, 0), torch.where(finite, b, 0)
        d = a - b
        sums += torch.stack((d @ d, b @ b, a @ a, a @ b))
        if d.numel():
            largest = torch.maximum(largest, d.abs().max())
    difference, size, own = (math.sqrt(total) for total in sums[:3].tolist())
    relative = difference / size if size else (0.0 if difference == 0 else math.inf)
    cosine = sums[3].item() / max(own * size, 1e-30) if size else 1.0
    return Parity(largest.item(), relative, cosine, tolerance, theirs.dtype)


def _not_finite(numbers: torch.Tensor) -> torch.Tensor:
    """0 for each finite number, another one for NaN, Inf and -Inf each."""
    return torch.where(torch.isfinite(numbers), 0.0, numbers).nan_to_num(2.0, 1.0, -1.0)


def clone_inputs(inputs: Any) -> Any:
    """The same structure with every tensor cloned; a tensor that occurs twice stays one. Blocks write into their
    inputs, so a second run needs its own. Dynamo looks whether a tensor is one of inference mode: so is its clone."""
    clones: dict[int, torch.Tensor] = {}

    def clone(leaf: torch.Tensor) -> torch.Tensor:
        if id(leaf) not in clones:
            with torch.inference_mode(leaf.is_inference()):
                clones[id(leaf)] = leaf.clone()
        return clones[id(leaf)]

    return map_tensors(clone, inputs)
