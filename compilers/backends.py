"""The backends behind OneDiff's registry, and the proof that one works on this machine."""

from __future__ import annotations

import importlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from ..status.machine import device_name, package_version
from .exceptions import BackendUnavailable
from .explain import explain
from .graphs import SharedGraph
from .nexfort import NexfortBackend
from .oneflow.backend import OneFlowBackend
from .proof import Proof, try_out
from .proof_process import prove_in_child
from .proof_store import ProofStore, proof_key
from .through_onediff import compile_through_onediff, missing_onediff
from .tools import device_type, missing_tools

log = logging.getLogger(__name__)


class Backend(Protocol):
    """What the rest of the pack knows of a backend. Nothing above it assumes Dynamo or Inductor."""

    @property
    def name(self) -> str: ...

    @property
    def package(self) -> str:
        """The distribution whose version the record shows."""

    @property
    def native(self) -> bool:
        """Whether it loads libraries that may hang or end the process: it is proven in a child process first."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions whose versions a proof depends on, besides torch."""

    def absent(self) -> str | None:
        """Why it cannot work here, found out without compiling or loading it; None when it may."""

    def load(self) -> None:
        """Imports it. May raise anything, and a native one may do worse."""

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        """The compiled module of a block. May compile at the first call."""

    def explain(self, error: Exception) -> tuple[str, dict[str, str] | None]:
        """A failure in words, and the graph break that it was, if it was one."""


class InductorBackend:
    """torch.compile."""

    name = "inductor"
    package = "torch"
    native = False
    packages = ("onediff",)

    def absent(self) -> str | None:
        return missing_onediff() or missing_tools(device_type())

    def load(self) -> None:
        importlib.import_module(f"{__package__}.inductor")  # registers itself

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        self.load()
        options = {"graph": graph, "config": INDUCTOR_CONFIG.get(effort, {})}
        return compile_through_onediff(block, self.name, options)

    def explain(self, error: Exception) -> tuple[str, dict[str, str] | None]:
        return explain(error)


#: Inductor settings by the node's ``effort`` (names of torch._inductor.config).
INDUCTOR_CONFIG: dict[str, dict[str, Any]] = {
    "fast start": {},
    "max speed": {"max_autotune": True, "coordinate_descent_tuning": True},
}


#: In the order in which ``auto`` tries them.
BACKENDS: dict[str, Backend] = {b.name: b for b in (InductorBackend(), OneFlowBackend(), NexfortBackend())}


#: Where proofs of native backends are kept; the nodes name the folder.
PROOFS_ON_DISK = ProofStore()

_proofs: dict[tuple[str, str], Proof] = {}
_locks: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)


def prove(backend: Backend, device: torch.device) -> Proof:
    """Compiles and runs something tiny, once per backend and device type in this process; for a native backend in a
    child process, once per machine and versions. Takes seconds: never call it on the event loop."""
    key = (backend.name, device.type)
    with _locks[key]:  # one that hangs must not hold up the others
        if key not in _proofs:
            proof = _prove(backend, device)
            log.debug("backend %s on %s: %s", *key, proof)
            if proof.passing:
                return proof
            _proofs[key] = proof
        return _proofs[key]


def _prove(backend: Backend, device: torch.device) -> Proof:
    absent = backend.absent()
    if absent:
        return Proof(False, absent)
    if not backend.native:
        return try_out(backend, device)
    key = proof_key(backend.name, backend.packages, device_name(device))
    proof = PROOFS_ON_DISK.get(key)
    if proof is None:
        proof = prove_in_child(backend.name, device)
        if not proof.passing:
            PROOFS_ON_DISK.put(key, proof)
    return proof


def choose_backend(requested: str, device: torch.device) -> tuple[Backend, str]:
    """The backend to use and why.

    ``auto`` is the first that works. A backend that does not work, or is not known here, gives way to that one too.

    Raises:
        BackendUnavailable: when none works.
    """
    instead = ""
    if requested != "auto":
        backend = BACKENDS.get(requested)
        proof = prove(backend, device) if backend else Proof(False, f"this version knows no backend {requested!r}.")
        if backend is not None and proof.available:
            return backend, f"Asked for. It {proof.reason}"
        instead = f"{requested} is not available: {proof.reason} "
    failures = []
    for backend in BACKENDS.values():
        proof = prove(backend, device)
        if proof.available:
            return (
                backend,
                f"{instead}{'Used instead' if instead else 'The first that works here'}: it {proof.reason}",
            )
        failures.append(f"{backend.name}: {proof.reason}")
    known = [failure for failure in failures if not failure.startswith(f"{requested}: ")]
    raise BackendUnavailable(
        requested, instead + " ".join(known if instead else failures[:1]).removeprefix("inductor: ")
    )


def backend_rows(device: torch.device) -> list[dict[str, Any]]:
    """The rows of ``GET /onediff/backends``."""
    rows = []
    for backend in BACKENDS.values():
        proof = prove(backend, device)
        rows.append(
            {
                "name": backend.name,
                "available": proof.available,
                "version": package_version(backend.package),
                "device": device_name(device),
                "reason": proof.reason,
                "seconds": proof.seconds,
                "startup_seconds": proof.startup_seconds,
            }
        )
    return rows
