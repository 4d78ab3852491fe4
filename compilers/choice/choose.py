"""Which backend compiles: the one that was asked for, or the first that works here."""

from __future__ import annotations

from typing import Any

import torch

from ...patching.user_code import Cancel
from ...proving.proof import Proof
from ...status.machine import device_name, package_version
from ..backends.protocol import Backend, BackendUnavailable
from .prove import PROOFS, Proofs


def choose_backend(
    requested: str, device: torch.device, proofs: Proofs = PROOFS, cancel: Cancel | None = None
) -> tuple[Backend, str]:
    """The backend to use and why. ``cancel`` ends what compiles meanwhile.

    ``auto`` is the first that works and is not far slower than uncompiled. If none is, it is the first that runs in
    this process: the machine may have been busy, and whole steps are timed too. A backend that does not work, or is not
    known here, gives way to that one as well.

    Raises:
        BackendUnavailable: when none works.
    """
    instead = ""
    if requested != "auto":
        backend = proofs.backends.get(requested)
        proof = (
            proofs.prove(backend, device, cancel=cancel)
            if backend
            else Proof(False, f"this version knows no backend {requested!r}.")
        )
        if backend is not None and proof.available:
            return backend, f"Asked for. It {proof.reason}"
        instead = f"{requested} is not available: {proof.reason} "
    failures, slow = {}, None
    for backend in proofs.backends.values():
        proof = proofs.prove(backend, device, cancel=cancel)
        if proof.available and not proof.slower:
            how = "Used instead" if instead else "The first that works here and is not slower"
            return backend, f"{instead}{how}: it {proof.reason}"
        if proof.available and not backend.native and slow is None:
            slow = backend, f"{instead}No working backend was fast in its trial; this one {proof.reason}"
        failures[backend.name] = f"{'it ' if proof.available else ''}{proof.reason}"
    if slow is not None:
        return slow
    if not instead:
        raise BackendUnavailable(requested, next(iter(failures.values())))
    others = " ".join(f"{name}: {reason}" for name, reason in failures.items() if name != requested)
    raise BackendUnavailable(requested, instead + others)


def backend_rows(device: torch.device, proofs: Proofs = PROOFS) -> list[dict[str, Any]]:
    """The rows of ``GET /onediff/backends``."""
    rows = []
    for backend in proofs.backends.values():
        proof = proofs.prove(backend, device, apart=True)
        rows.append(
            {
                "name": backend.name,
                "available": proof.available,
                "version": package_version(backend.package),
                "device": device_name(device),
                "reason": proof.reason,
                "seconds": proof.seconds,
                "startup_seconds": proof.startup_seconds,
                "speed": proof.speed,
                "slower": proof.slower,
            }
        )
    return rows
