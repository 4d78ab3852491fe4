"""Which port ComfyUI gets, and that no second command of this pack takes the same one meanwhile."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from .console import CannotContinue
from .environment import try_lock


@contextlib.contextmanager
def reserved_port(locks: Path, ports: Sequence[int]) -> Iterator[int]:
    """A port that is free and stays this command's own: ComfyUI binds it only seconds after it was chosen."""
    locks.mkdir(parents=True, exist_ok=True)
    for port in ports or (free_port() for _ in range(20)):
        with (locks / f"{port}.lock").open("a+b") as lock:
            if port_is_free(port) and try_lock(lock.fileno()):
                yield port
                return
    raise port_taken(ports)


def port_taken(ports: Sequence[int]) -> CannotContinue:
    if len(ports) == 1:
        return CannotContinue(f"port {ports[0]} is taken by another program; choose another one with --port.")
    return CannotContinue(f"the ports {ports[0]} to {ports[-1]} are all taken; choose a free one with --port.")


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
