"""The kernels that ``auto`` may take, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch

from ..built_in.sdpa import CUDNN_FIRST
from ..kernels.kernel import Kernel
from ..kernels.proofs import KERNEL_PROOFS, KernelProofs
from ..registry import get_processor, processor_names

Quality = Literal["exact", "fast"]

#: What ``quality`` may be, the default first.
QUALITIES: tuple[Quality, ...] = ("exact", "fast")


@dataclass(frozen=True)
class Candidate:
    """A kernel that ``auto`` knows. ``reason``: why it is not tried, None when it is."""

    name: str
    kernel: Kernel
    reason: str | None = None


def ranked() -> list[tuple[str, Kernel]]:
    """All kernels that ``auto`` knows, the fastest as far as one expects first."""
    kernels = [(name, get_processor(name)) for name in processor_names()]
    known = [(name, cast(Kernel, one)) for name, one in kernels if isinstance(one, Kernel) and one.rank is not None]
    return sorted(known, key=lambda one: cast(int, one[1].rank))


def candidates(
    device: torch.device,
    dtype: torch.dtype,
    quality: Quality,
    *,
    hosts_is_sdpa: bool = False,
    proofs: KernelProofs = KERNEL_PROOFS,
) -> list[Candidate]:
    """The kernels for a model that computes in ``dtype``.

    Args:
        hosts_is_sdpa: ComfyUI's own attention is PyTorch's.
    """
    return [
        Candidate(name, kernel, _reason(name, kernel, device, dtype, quality, hosts_is_sdpa, proofs))
        for name, kernel in ranked()
    ]


def to_prove(device: torch.device, dtype: torch.dtype, quality: Quality) -> list[str]:
    """Kernels that a proof alone keeps from being candidates, or that have none yet."""
    return [
        name
        for name, kernel in ranked()
        if kernel.package is not None
        and (quality == "fast" or not kernel.approximate)
        and kernel.absent() is None
        and not kernel.limits.not_supported_reasons(device, dtype, None)
    ]


def _reason(
    name: str,
    kernel: Kernel,
    device: torch.device,
    dtype: torch.dtype,
    quality: Quality,
    hosts_is_sdpa: bool,
    proofs: KernelProofs,
) -> str | None:
    unfit = kernel.limits.not_supported_reasons(device, dtype, None)
    if unfit:
        return "; ".join(one.why for one in unfit)
    if kernel.approximate and quality == "exact":
        return "it is approximate: set quality to fast for it"
    if name == "sdpa" and hosts_is_sdpa and not _reorders(device):
        return "ComfyUI computes with it already"
    proof = proofs.known(name, device)
    if proof is None:
        return "it is being tried in a process of its own: the next model that is loaded may use it"
    return None if proof.available else proof.reason


def _reorders(device: torch.device) -> bool:
    """Whether ``sdpa`` asks PyTorch's kernels in another order than ComfyUI does."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) in CUDNN_FIRST
