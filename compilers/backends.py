"""The backends behind OneDiff's registry, and the proof that one works on this machine."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import nn

from ..status.machine import device_name, package_version
from .exceptions import BackendUnavailable
from .explain import explain, is_out_of_memory, missing_tool
from .graphs import SharedGraph
from .parity import compare

log = logging.getLogger(__name__)


class Backend(Protocol):
    """What the rest of the pack knows of a backend. Nothing above it assumes Dynamo or Inductor."""

    @property
    def name(self) -> str: ...

    @property
    def package(self) -> str:
        """The distribution whose version the record shows."""

    def absent(self) -> str | None:
        """Why it cannot work here, found out without compiling; None when it may."""

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        """The compiled module of a block. May compile at the first call."""

    def explain(self, error: Exception) -> tuple[str, dict[str, str] | None]:
        """A failure in words, and the graph break that it was, if it was one."""


class InductorBackend:
    """torch.compile."""

    name = "inductor"
    package = "torch"

    def absent(self) -> str | None:
        return missing_onediff()

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        return onediff_compile(block, self.name, {"graph": graph, "config": INDUCTOR_CONFIG.get(effort, {})})

    def explain(self, error: Exception) -> tuple[str, dict[str, str] | None]:
        return explain(error)


#: Inductor settings by the node's ``effort`` (names of torch._inductor.config).
INDUCTOR_CONFIG: dict[str, dict[str, Any]] = {
    "fast start": {},
    "max speed": {"max_autotune": True, "coordinate_descent_tuning": True},
}


@dataclass(frozen=True)
class NotYet:
    """A backend of OneDiff that this version of the pack does not route to."""

    name: str
    package: str

    def absent(self) -> str:
        if package_version(self.package) is None:
            return f"{self.package} is not installed, and this version of the pack does not use it yet; use inductor."
        return f"{self.package} is installed, but this version of the pack does not use it yet; use inductor."

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        raise BackendUnavailable(self.name, self.absent())

    def explain(self, error: Exception) -> tuple[str, dict[str, str] | None]:
        return explain(error)


#: In the order in which ``auto`` tries them.
BACKENDS: dict[str, Backend] = {
    b.name: b for b in (InductorBackend(), NotYet("oneflow", "oneflow"), NotYet("nexfort", "nexfort"))
}


def missing_onediff() -> str | None:
    """Why OneDiff cannot be used, None when it can."""
    if find_spec("onediff") is None:
        return "onediff is not installed: run “pip install onediff” in ComfyUI's Python and restart ComfyUI."
    try:
        importlib.import_module("onediff.infer_compiler")
    except Exception as error:  # a broken installation may raise anything
        return f"onediff cannot be imported ({type(error).__name__}: {error}): run “pip install -U onediff”."
    return None


def onediff_compile(block: nn.Module, backend: str, options: dict[str, Any]) -> Callable:
    """``onediff.infer_compiler.compile``, with this pack's backends registered."""
    from onediff.infer_compiler import compile as compile_module

    from . import inductor  # noqa: F401  (registers itself)

    return compile_module(block, backend=backend, options=options)


@dataclass(frozen=True)
class Proof:
    """Whether a backend compiled and ran something tiny on a device, and how long that took."""

    available: bool
    reason: str
    seconds: float | None = None
    passing: bool = False  # a reason that may be gone the next time, such as a full device


_proofs: dict[tuple[str, str], Proof] = {}
_lock = threading.Lock()


class _Tiny(nn.Module):
    """A linear layer and an attention: what every model has."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def prove(backend: Backend, device: torch.device) -> Proof:
    """Compiles and runs something tiny, once per backend and device type in this process."""
    key = (backend.name, device.type)
    with _lock:
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
    start = time.perf_counter()
    try:
        with torch.inference_mode():
            module = _Tiny().to(device)
            x = torch.randn(2, 24, 16, device=device)
            compiled = backend.compile(module, SharedGraph(_Tiny.forward, "proof"), "fast start")
            parity = compare(compiled(x), module(x))
    except Exception as error:  # whatever a compiler raises, the answer is "no, because"
        return Proof(False, missing_tool(error, device) or backend.explain(error)[0], passing=is_out_of_memory(error))
    seconds = round(time.perf_counter() - start, 1)
    if not parity.passed:
        return Proof(False, f"it computes wrong numbers here ({parity.relative:.1e} relative difference).", seconds)
    return Proof(True, f"compiled and ran a small attention in {seconds} s.", seconds)


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
            }
        )
    return rows
