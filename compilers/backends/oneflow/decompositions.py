"""Operators that are taken apart before they reach OneFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import get_decompositions

Tensor = torch.Tensor


def decompositions() -> dict[Any, Callable]:
    """For torch's operators its own; for the rotary embeddings of ComfyUI's kernels the formulas below."""
    aten = torch.ops.aten
    table = get_decompositions(
        [aten._fused_rms_norm, aten.linalg_vector_norm, aten.hardswish, aten.softplus, aten.leaky_relu, aten.addcdiv]
    )
    return {**table, **_rotary()}


def rotate(x: Tensor, freqs: Tensor, split_half: bool = False) -> Tensor:
    """Rotates pairs of channels: neighbours, or one of each half. ``freqs`` is (..., tokens, channels / 2, 2, 2)."""
    if x.ndim > 2 and freqs.ndim > 2 and freqs.shape[2] > x.shape[2] != 1:  # a table for more tokens than there are
        freqs = freqs[:, :, : x.shape[2]]
    if split_half:
        first, second = x.to(freqs.dtype).reshape(*x.shape[:-1], 2, -1).unsqueeze(-1).unbind(-3)
    else:
        first, second = x.to(freqs.dtype).reshape(*x.shape[:-1], -1, 1, 2).unbind(-1)
    rotated = freqs[..., 0] * first + freqs[..., 1] * second
    return (rotated.transpose(-1, -2) if split_half else rotated).reshape(x.shape).to(x.dtype)


def rotate_normed(
    x: Tensor, freqs: Tensor, scale: Tensor, epsilon: float, split_half: bool = False, channels: int = 0
) -> Tensor:
    """RMS norm, then the rotation of the first ``channels``, 0 for all."""
    normed = torch.nn.functional.rms_norm(x, (x.shape[-1],), scale, epsilon)
    if not channels or channels == x.shape[-1]:
        return rotate(normed, freqs, split_half)
    rotated = rotate(normed[..., :channels], freqs, split_half)
    return torch.cat((rotated, normed[..., channels:]), dim=-1)


def _rotary() -> dict[Any, Callable]:
    def two(half: bool) -> Callable:
        return lambda q, k, freqs: (rotate(q, freqs, half), rotate(k, freqs, half))

    def one(half: bool) -> Callable:
        return lambda x, freqs: rotate(x, freqs, half)

    def two_normed(half: bool) -> Callable:
        def rms_rope(
            q: Tensor,
            k: Tensor,
            freqs_cis: Tensor,
            q_scale: Tensor,
            k_scale: Tensor | None = None,
            epsilon: float = 1e-6,
            rot_dim: int = 0,
        ) -> tuple[Tensor, ...]:
            scales = (q_scale, q_scale if k_scale is None else k_scale)
            pairs = zip((q, k), scales, strict=True)
            return tuple(rotate_normed(x, freqs_cis, scale, epsilon, half, rot_dim) for x, scale in pairs)

        return rms_rope

    def one_normed(half: bool) -> Callable:
        return lambda x, freqs_cis, scale, epsilon=1e-6: rotate_normed(x, freqs_cis, scale, epsilon, half)

    kinds = {"apply_rope{}": two, "apply_rope{}1": one, "rms_rope{}": two_normed, "rms_rope{}1": one_normed}
    kernels = torch.ops.comfy_kitchen
    named = {
        name.format("_split_half" if half else ""): function(half)
        for name, function in kinds.items()
        for half in (False, True)
    }
    return {getattr(kernels, name).default: function for name, function in named.items() if hasattr(kernels, name)}
