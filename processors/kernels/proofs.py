"""Whether kernels of packages work here: tried in a child process ahead of the picture, and kept on disk."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch

from ...patching.user_code import PAUSE
from ...patching.user_errors import is_no_memory
from ...proving.child import Trial, prove_in_child
from ...proving.kept_proofs import ProofStore, proof_key
from ...proving.proof import Proof
from ...status.machine import device_name
from ..built_in.reference import plain_attention
from ..contract import KernelCall
from ..registry import get_processor
from .kernel import Kernel

#: Largest ‖difference‖ / ‖result‖ of a kernel from the formula in float32, in half precision.
EXACT, APPROXIMATE = 5e-3, 0.1

_AT_WORK = "computing a small attention"

#: A kernel and a type of device.
_Key = tuple[str, str]


class KernelProofs:
    """What is known in this process of kernels that packages bring. One without a package needs no proof."""

    def __init__(self, on_disk: ProofStore | None = None):
        self.on_disk = on_disk if on_disk is not None else ProofStore()
        self._known: dict[_Key, Proof] = {}
        self._locks: defaultdict[_Key, threading.Lock] = defaultdict(threading.Lock)

    def known(self, name: str, device: torch.device) -> Proof | None:
        """What was proven so far, None while that is not known. Does not wait."""
        kernel = kernel_of(name)
        if kernel.package is None:
            return Proof(True, "comes with PyTorch.")
        absent = kernel.absent()
        if absent is not None:
            return Proof(False, f"{absent.why}: {absent.fix}.")
        return self._known.get((name, device.type)) or self.on_disk.get(_key_of(kernel, name, device))

    def prove(self, name: str, device: torch.device) -> Proof:
        """The proof of a kernel; takes seconds where it is not known yet."""
        key = (name, device.type)
        lock = self._locks[key]
        while not lock.acquire(timeout=PAUSE):  # no longer at a time: Cancel comes between two
            pass
        try:
            proof = self.known(name, device)
            if proof is None:
                arguments = [name, str(device)]
                trial = Trial("processors.kernels.proofs", arguments, _AT_WORK, "reinstall its package")
                proof = prove_in_child(trial)
                if not proof.passing:
                    self._known[key] = proof
                    self.on_disk.put(_key_of(kernel_of(name), name, device), proof)
            return proof
        finally:
            lock.release()

    def prove_ahead(self, names: Sequence[str], device: torch.device) -> threading.Thread | None:
        """Proves these one after the other in the background; None where all are known."""
        unknown = [name for name in names if self.known(name, device) is None]
        if not unknown:
            return None
        work = threading.Thread(target=self._prove_all, args=(unknown, device), name="OneDiff kernels", daemon=True)
        work.start()
        return work

    def _prove_all(self, names: Sequence[str], device: torch.device) -> None:
        for name in names:
            self.prove(name, device)

    def forget_failures(self) -> None:
        """What did not work is tried again."""
        self._known = {key: proof for key, proof in self._known.items() if proof.lasts}


#: Those of this process. The host names the folder where they are kept.
KERNEL_PROOFS = KernelProofs()


def kernel_of(name: str) -> type[Kernel]:
    """The class of a built-in kernel."""
    return cast(type[Kernel], type(get_processor(name)))


def _key_of(kernel: type[Kernel], name: str, device: torch.device) -> str:
    package = () if kernel.package is None else (kernel.package.name,)
    return proof_key(f"kernel {name}", package, device_name(device), Path(__file__).parents[1] / "built_in")


def prove(say: Callable[..., None], name: str, device: str) -> Proof:
    """What the child does: calls the kernel and compares it with the formula in float32."""
    say(doing=f"loading {name}")
    kernel = cast(Kernel, get_processor(name))
    try:
        q, k, v = inputs_for(kernel, torch.device(device))
        say(doing=_AT_WORK)
        before = [x.clone() for x in (q, k, v)]
        with torch.inference_mode():
            out = kernel.computed(KernelCall(q, k, v, q.shape[1], None, True, True))
            expected = plain_attention(*(x.float() for x in before))
        error = relative_error(out, expected)
    except Exception as raised:  # a broken installation may raise anything
        why = f"it raises {type(raised).__name__}: {str(raised)[:200]}"
        return Proof(False, why, passing=is_no_memory(raised))
    if not all(map(torch.equal, (q, k, v), before)):
        return Proof(False, "it writes into its inputs.")
    most = APPROXIMATE if kernel.approximate else EXACT
    if not error <= most:
        return Proof(False, f"it computes wrong numbers here ({error:.1e} relative difference).")
    return Proof(True, f"computed a small attention ({error:.1e} relative difference).")


def inputs_for(kernel: Kernel, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Small ones that the kernel takes, without the random numbers that another node may be drawing."""
    dtypes = kernel.limits.dtypes
    dtype = torch.float32 if dtypes is None else min(dtypes, key=str)
    shape = (3, 2, 4, 256, 64)
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).mul_(0.7).sin_().reshape(shape)
    q, k, v = numbers.to(device, dtype).unbind()
    return q, k, v


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """‖difference‖ / ‖expected‖; not a number where one of them is not finite."""
    return ((out.float() - expected).norm() / expected.norm()).item()
