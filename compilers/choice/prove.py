"""The proof that a backend works on this machine: once, kept, and in a child process where it may crash."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ...patching.user_code import PAUSE, Cancel
from ...proving.kept_proofs import ProofStore, proof_key
from ...proving.proof import Proof
from ...status.machine import device_name, package_version
from ..backends.protocol import Backend
from ..backends.registry import BACKENDS
from ..compile_cache.folder import told
from .child import prove_in_child
from .trial import try_out

log = logging.getLogger(__name__)

#: Seconds for a compiler in a child process to start, and for its proof. It calls other programs, which a busy machine
#: delays, and the libraries that its start tries may have to be built.
COMPILER_STARTING, COMPILER_WORKING = 120.0, 60.0

#: A backend and a type of device.
_Key = tuple[str, str]


class Proofs:
    """What is known of backends in this process: which work, which are being tried, which are starting up.

    Args:
        backends: by name, in the order in which ``auto`` tries them.
        on_disk: where proofs are kept; nothing is kept without a folder.
        known: proofs that hold from the start, by backend and type of device.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        on_disk: ProofStore | None = None,
        known: Mapping[_Key, Proof] | None = None,
    ):
        self.backends = dict(backends)
        self.on_disk = on_disk if on_disk is not None else ProofStore()
        self._known: dict[_Key, Proof] = dict(known or {})
        self._importing = threading.Lock()
        self._ahead: dict[_Key, threading.Thread] = {}
        self._locks: defaultdict[_Key, threading.Lock] = defaultdict(threading.Lock)

    def prove(
        self, backend: Backend, device: torch.device, *, apart: bool = False, cancel: Cancel | None = None
    ) -> Proof:
        """Compiles and runs something tiny, once per machine and versions; for a native backend in a child process.
        Takes seconds. A native one that fails, and may have crashed, is not tried again for an hour.

        Args:
            apart: a child process for every backend. A thread beside the one that samples must not trace, see
                `start_ahead`.
            cancel: ends what compiles in this process.

        Raises:
            RuntimeError: on the server's event loop, which would stand still.
        """
        key = (backend.name, device.type)
        if key in self._known:
            return self._known[key]
        _not_on_the_event_loop()
        started = self._ahead.get(key)
        while started is not None and started.is_alive():
            started.join(PAUSE)  # no longer at a time: Cancel comes between two
        return self._prove_once(backend, device, apart, cancel)

    def _prove_once(
        self, backend: Backend, device: torch.device, apart: bool = False, cancel: Cancel | None = None
    ) -> Proof:
        key = (backend.name, device.type)
        lock = self._locks[key]  # one that hangs must not hold up the others
        while not lock.acquire(timeout=PAUSE):
            pass
        try:
            if key not in self._known:
                proof = self._prove(backend, device, apart or backend.native, cancel)
                log.debug("backend %s on %s: %s", *key, proof)
                if proof.passing:
                    return proof
                self._known[key] = proof
            return self._known[key]
        finally:
            lock.release()

    def _prove(self, backend: Backend, device: torch.device, apart: bool, cancel: Cancel | None) -> Proof:
        absent = backend.absent(device)
        if absent:
            return Proof(False, absent)
        key = key_of(backend, device)
        proof = self.on_disk.get(key)
        if proof is None:
            proof = _in_child(backend, device) if apart else try_out(backend, device, cancel)
            if proof.lasts or (backend.native and not proof.passing):  # others are tried again at the next start
                self.on_disk.put(key, proof)
        return proof

    def start_ahead(self, requested: str, device: torch.device) -> threading.Thread | None:
        """Begins in the background with what ``choose_backend`` will need of a backend: proves a native one, in its
        child process, and starts another up. None when that is done or under way.

        Nothing is traced in that thread. Dynamo sets the random numbers of the whole process back when it has traced,
        and torch 2.11 built for CUDA crashes on a machine without a GPU once a thread in which it traced has ended.
        """
        backend = self.backends[requested if requested in self.backends else next(iter(self.backends))]
        key = (backend.name, device.type)
        if key in self._known or (key in self._ahead and self._ahead[key].is_alive()):
            return None
        thread = threading.Thread(target=self._start, args=(backend, device), name="OneDiff start-up", daemon=True)
        self._ahead[key] = thread
        thread.start()
        return thread

    def _start(self, backend: Backend, device: torch.device) -> None:
        if backend.native:
            self._prove_once(backend, device)
            return
        with contextlib.suppress(Exception):  # the proof meets it again, and says it
            with self._importing:
                if backend.absent(device):
                    return
                backend.load()
            backend.start_up(device)

    def wait_for_imports(self, check_interrupt: Callable[[], None] = lambda: None) -> None:
        """Returns when no backend is being imported, or raises what ``check_interrupt`` does. Modules that import each
        other must not be imported in two threads at a time: one of them would find another half made."""
        while not self._importing.acquire(timeout=PAUSE):
            check_interrupt()
        self._importing.release()

    def forget_failures(self) -> None:
        """Backends that did not work or were slow are tried again: the user may have mended what was missing, and the
        machine may have been busy."""
        for key in [key for key, proof in list(self._known.items()) if not proof.lasts]:
            self._known.pop(key, None)
        self.on_disk.forget_failures()
        importlib.invalidate_caches()
        package_version.cache_clear()


#: Those of this process. The host names the folder where they are kept.
PROOFS = Proofs(BACKENDS)


def key_of(backend: Backend, device: torch.device) -> str:
    """Under which a proof is kept: it holds for this package's code too."""
    return proof_key(backend.name, backend.packages, device_name(device), Path(__file__).parents[1])


def _in_child(backend: Backend, device: torch.device) -> Proof:
    limits = {} if backend.native else {"starting": COMPILER_STARTING, "working": COMPILER_WORKING}
    try:
        return prove_in_child(backend.name, device, **limits)
    except OSError as error:
        return Proof(
            False,
            f"its trial process cannot be started ({told(error)}): name a folder that can be written to with the "
            "environment variable TMPDIR.",
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
