"""Whether what a model gave are numbers: NaN and Inf make a black picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether tensors hold no NaN and no Inf: told by one sum each; looked at closely where that is none, because the
    sum of large numbers may be infinite too."""
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    if all(bool(tensor.sum(dtype=torch.float32).isfinite()) for tensor in floats):
        return True
    return all(bool(tensor.isfinite().all()) for tensor in floats)


def sampled_finite(latents: Any) -> bool:
    """The same of what a sampling gives: a tensor, or several (ComfyUI's ``NestedTensor``, for video with sound)."""
    leaves = pytree.tree_leaves(getattr(latents, "tensors", latents))
    return all_finite(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
