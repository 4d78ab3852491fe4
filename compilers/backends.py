"""The backends behind OneDiff's registry, and the proof that one works on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from ..status.machine import device_name, package_version
from .cache.folder import told
from .effort import effort_note, inductor_config
from .exceptions import BackendUnavailable
from .explain import explain
from .graphs import SharedGraph
from .nexfort import NexfortBackend
from .oneflow.backend import OneFlowBackend
from .proof import Proof, try_out
from .proof_process import prove_in_child
from .proof_store import ProofStore, proof_key
from .through_onediff import compile_through_onediff, missing_onediff
from .tools import missing_tools
from .vector_instructions import find_vector_instructions

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

    def emulates_casts(self, device: str) -> bool:
        """Whether it heeds ``SharedGraph.emulates_casts`` on this type of device."""

    def absent(self, device: torch.device) -> str | None:
        """Why it cannot work here, found out without compiling or loading it; None when it may."""

    def load(self) -> None:
        """Imports it. May raise anything, and a native one may do worse."""

    def start_up(self, device: torch.device) -> None:
        """Does what a process pays once, however little is compiled. May raise what ``load`` may."""

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        """The compiled module of a block. May compile at the first call."""

    def explain(self, error: Exception) -> tuple[str, dict[str, str] | None]:
        """A failure in words, and the graph break that it was, if it was one."""

    def about(self, effort: str, device: str) -> str | None:
        """What this effort means on this type of device, where that is worth a sentence."""


class InductorBackend:
    """torch.compile."""

    name = "inductor"
    package = "torch"
    native = False
    packages = ("onediff",)

    def absent(self, device: torch.device) -> str | None:
        return missing_onediff() or missing_tools(device.type)

    def load(self) -> None:
        importlib.import_module(f"{__package__}.inductor")  # registers itself
        importlib.import_module("torch._inductor.compile_fx")

    def start_up(self, device: torch.device) -> None:
        self.load()
        if device.type == "cpu":
            find_vector_instructions()  # tries out the C++ compiler

    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        self.load()
        config = inductor_config(effort, graph.device)
        if graph.emulates_casts:
            config["emulate_precision_casts"] = True
        options = {"graph": graph, "config": config}
        return compile_through_onediff(block, self.name, options)

    def explain(self, error: Exception) -> tuple[str, dict[str, str] | None]:
        return explain(error)

    def emulates_casts(self, device: str) -> bool:
        return device != "cpu"  # where Inductor's C++ leaves such casts out (torch 2.11)

    def about(self, effort: str, device: str) -> str | None:
        return effort_note(effort, device)


#: In the order in which ``auto`` tries them.
BACKENDS: dict[str, Backend] = {b.name: b for b in (InductorBackend(), OneFlowBackend(), NexfortBackend())}


#: Where proofs are kept; the nodes name the folder.
PROOFS_ON_DISK = ProofStore()

_proofs: dict[tuple[str, str], Proof] = {}
#: Seconds for a compiler in a child process to start, and for its proof. It calls other programs, which a busy machine
#: delays, and the libraries that its start tries may have to be built.
COMPILER_STARTING, COMPILER_WORKING = 120.0, 60.0

_importing = threading.Lock()
_ahead: dict[tuple[str, str], threading.Thread] = {}
_locks: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)


def prove(backend: Backend, device: torch.device, *, apart: bool = False) -> Proof:
    """Compiles and runs something tiny, once per machine and versions; for a native backend in a child process. Takes
    seconds. A native one that fails, and may have crashed, is not tried again for an hour.

    Args:
        apart: a child process for every backend. A thread beside the one that samples must not trace, see
            `start_ahead`.

    Raises:
        RuntimeError: on the server's event loop, which would stand still.
    """
    key = (backend.name, device.type)
    if key in _proofs:
        return _proofs[key]
    _not_on_the_event_loop()
    started = _ahead.get(key)
    if started is not None:
        started.join()
    return _prove_once(backend, device, apart)


def _prove_once(backend: Backend, device: torch.device, apart: bool = False) -> Proof:
    key = (backend.name, device.type)
    with _locks[key]:  # one that hangs must not hold up the others
        if key not in _proofs:
            proof = _prove(backend, device, apart or backend.native)
            log.debug("backend %s on %s: %s", *key, proof)
            if proof.passing:
                return proof
            _proofs[key] = proof
        return _proofs[key]


def _prove(backend: Backend, device: torch.device, apart: bool) -> Proof:
    absent = backend.absent(device)
    if absent:
        return Proof(False, absent)
    key = proof_key(backend.name, backend.packages, device_name(device))
    proof = PROOFS_ON_DISK.get(key)
    if proof is None:
        proof = _in_child(backend, device) if apart else try_out(backend, device)
        if proof.lasts or (backend.native and not proof.passing):  # others are tried again at the next start
            PROOFS_ON_DISK.put(key, proof)
    return proof


def _in_child(backend: Backend, device: torch.device) -> Proof:
    limits = {} if backend.native else {"starting": COMPILER_STARTING, "working": COMPILER_WORKING}
    try:
        return prove_in_child(backend.name, device, **limits)
    except OSError as error:
        return Proof(
            False,
            f"its trial process cannot be started ({told(error)}): use inductor, or name a folder that can "
            "be written to with the environment variable TMPDIR.",
            passing=True,
        )


def _not_on_the_event_loop() -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # ComfyUI executes nodes in a loop of another thread, which serves nobody
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("A backend is proven in a thread: on the event loop the server would answer nobody meanwhile.")


def start_ahead(requested: str, device: torch.device) -> threading.Thread | None:
    """Begins in the background with what ``choose_backend`` will need of a backend: proves a native one, in its child
    process, and starts another up. None when that is done or under way.

    Nothing is traced in that thread. Dynamo sets the random numbers of the whole process back when it has traced, and
    torch 2.11 built for CUDA crashes on a machine without a GPU once a thread in which it traced has ended.
    """
    backend = BACKENDS[requested if requested in BACKENDS else next(iter(BACKENDS))]
    key = (backend.name, device.type)
    if key in _proofs or (key in _ahead and _ahead[key].is_alive()):
        return None
    thread = threading.Thread(target=_start, args=(backend, device), name="OneDiff start-up", daemon=True)
    _ahead[key] = thread
    thread.start()
    return thread


def _start(backend: Backend, device: torch.device) -> None:
    if backend.native:
        _prove_once(backend, device)
        return
    with contextlib.suppress(Exception):  # the proof meets it again, and says it
        with _importing:
            if backend.absent(device):
                return
            backend.load()
        backend.start_up(device)


def wait_for_imports() -> None:
    """Returns when no backend is being imported. Modules that import each other must not be imported in two threads
    at a time: one of them would find another half made."""
    with _importing:
        pass


def forget_failures() -> None:
    """Backends that did not work or were slow are tried again: the user may have mended what was missing, and the
    machine may have been busy."""
    for key in [key for key, proof in list(_proofs.items()) if not proof.lasts]:
        _proofs.pop(key, None)
    PROOFS_ON_DISK.forget_failures()
    importlib.invalidate_caches()
    package_version.cache_clear()


def choose_backend(requested: str, device: torch.device) -> tuple[Backend, str]:
    """The backend to use and why.

    ``auto`` is the first that works and is not far slower than uncompiled. If none is, it is the first that runs in
    this process: the machine may have been busy, and whole steps are timed too. A backend that does not work, or is not
    known here, gives way to that one as well.

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
    failures, slow = {}, None
    for backend in BACKENDS.values():
        proof = prove(backend, device)
        if proof.available and not proof.slower:
            how = "Used instead" if instead else "The first that works here and is not slower"
            return backend, f"{instead}{how}: it {proof.reason}"
        if proof.available and not backend.native and slow is None:
            slow = backend, f"{instead}None that works here was fast in its trial: it {proof.reason}"
        failures[backend.name] = f"{'it ' if proof.available else ''}{proof.reason}"
    if slow is not None:
        return slow
    if not instead:
        raise BackendUnavailable(requested, next(iter(failures.values())))
    others = " ".join(f"{name}: {reason}" for name, reason in failures.items() if name != requested)
    raise BackendUnavailable(requested, instead + others)


def backend_rows(device: torch.device) -> list[dict[str, Any]]:
    """The rows of ``GET /onediff/backends``."""
    rows = []
    for backend in BACKENDS.values():
        proof = prove(backend, device, apart=True)
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
            }
        )
    return rows
