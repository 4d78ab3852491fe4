"""Proofs kept on disk, by machine and versions, so that nothing need be proven at every start."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from functools import cache
from pathlib import Path
from typing import Any

from ..status.machine import package_version
from .files import KeptEntries
from .proof import Proof

#: Seconds after which what did not work, or was slow, is tried again.
FAILURES_LAST = 3600.0

#: Bytes of the file that is read; a proof has about 300.
_MOST = 2**20

_SECONDS = (int, float, type(None))
_FIELDS: dict[str, Any] = {
    "available": bool,
    "reason": str,
    "seconds": _SECONDS,
    "startup_seconds": _SECONDS,
    "speed": _SECONDS,
}


class ProofStore:
    """The kept proofs of a folder, none while ``folder`` is None."""

    def __init__(self, folder: Path | None = None):
        self._entries = KeptEntries("proofs", "proofs", _MOST, folder)

    @property
    def folder(self) -> Path | None:
        return self._entries.folder

    @folder.setter
    def folder(self, folder: Path | None) -> None:
        self._entries.folder = folder

    def get(self, key: str) -> Proof | None:
        """The kept proof of a key."""
        entry = self._entries.read().get(key)
        proof = _proof(entry)
        if entry is None or proof is None or proof.lasts:
            return proof
        age = time.time() - entry["time"] if isinstance(entry.get("time"), int | float) else FAILURES_LAST
        return proof if 0 <= age < FAILURES_LAST else None

    def put(self, key: str, proof: Proof) -> None:
        """Keeps a proof."""
        entry = {**{name: getattr(proof, name) for name in _FIELDS}, "time": time.time()}
        self._entries.change(lambda entries: {**entries, key: entry})

    def forget_failures(self) -> None:
        """Forgets why something did not work, and that it was slow, so that it is tried again."""
        self._entries.change(
            lambda entries: {key: e for key, e in entries.items() if (proof := _proof(e)) is not None and proof.lasts}
        )


def _proof(entry: Any) -> Proof | None:
    """A proof as it was kept, None for what is none."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(n), kind) for n, kind in _FIELDS.items()):
        return None
    return Proof(**{name: entry[name] for name in _FIELDS})


def proof_key(name: str, packages: tuple[str, ...], device: str, sources: Path) -> str:
    """What is proven on a device of a machine, with every version that a proof depends on, and the code in
    ``sources``."""
    versions: list[str | None] = [f"{one} {package_version(one)}" for one in ("torch", *packages)]
    versions += [os.environ.get(variable) for variable in ("CXX", "CC")]
    parts = [name, device, platform.node(), platform.platform(), platform.python_version(), digest(sources), *versions]
    return f"{name} on {device}: {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


@cache
def digest(sources: Path) -> str:
    """Changes with the code in a folder, as it was when this process asked first."""
    found = hashlib.sha256()
    for file in sorted(sources.rglob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()
