"""Proofs kept on disk, by machine and versions, so that a backend need not be proven at every start."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ..status.machine import package_version
from .cache.folder import open_file
from .proof import Proof

log = logging.getLogger(__name__)

#: Seconds after which a backend that did not work, or was slow, is tried again.
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
    """A small JSON file in a folder, or nothing while ``folder`` is None. No failure of the disk is an error here."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._lock = threading.Lock()

    def get(self, key: str) -> Proof | None:
        """The kept proof of a key."""
        entry = self._read().get(key)
        proof = _proof(entry)
        if entry is None or proof is None or proof.lasts:
            return proof
        age = time.time() - entry["time"] if isinstance(entry.get("time"), int | float) else FAILURES_LAST
        return proof if 0 <= age < FAILURES_LAST else None

    def put(self, key: str, proof: Proof) -> None:
        """Keeps a proof."""
        if self.folder is None:
            return
        with self._lock:
            entries = self._read()
            entries[key] = {**{name: getattr(proof, name) for name in _FIELDS}, "time": time.time()}
            self._write(entries)

    def forget_failures(self) -> None:
        """Forgets why backends did not work, and that they were slow, so that they are tried again."""
        with self._lock:
            entries = self._read()
            kept = {key: e for key, e in entries.items() if (proof := _proof(e)) is not None and proof.lasts}
            if kept != entries:
                self._write(kept)

    def _write(self, entries: dict[str, Any]) -> None:
        """In one piece, so that a process that is killed here, or another server, leaves no half of a file."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix="proofs-", suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(entries, file, indent=1)
                os.replace(name, self.folder / "proofs.json")
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            log.warning("OneDiff: proofs of backends cannot be kept in %s: %s", self.folder, error)

    def _read(self) -> dict[str, Any]:
        if self.folder is None:
            return {}
        try:
            with os.fdopen(open_file(self.folder / "proofs.json", _MOST), encoding="utf-8") as file:
                entries = json.load(file)
        except (OSError, ValueError, RecursionError):
            return {}
        return entries if isinstance(entries, dict) else {}


def _proof(entry: Any) -> Proof | None:
    """A proof as it was kept, None for what is none."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(n), kind) for n, kind in _FIELDS.items()):
        return None
    return Proof(**{name: entry[name] for name in _FIELDS})


def proof_key(backend: str, packages: tuple[str, ...], device: str) -> str:
    """A backend on a device of a machine, with every version that a proof depends on."""
    versions: list[str | None] = [f"{name} {package_version(name)}" for name in ("torch", *packages)]
    versions += [os.environ.get(variable) for variable in ("CXX", "CC")]
    parts = [backend, device, platform.node(), platform.platform(), platform.python_version(), _sources(), *versions]
    return f"{backend} on {device}: {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def _sources() -> str:
    """Changes with this package's code."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
