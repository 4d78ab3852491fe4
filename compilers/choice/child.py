"""Proves a backend in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ...proving import child
from ...proving.proof import Proof
from ..backends.registry import BACKENDS
from ..compile_cache import WARM, Place
from .trial import try_out

_AT_WORK = "compiling and running a small attention"


def prove_in_child(
    name: str, device: torch.device, starting: float = child.STARTING, working: float = child.WORKING
) -> Proof:
    """Proves a backend by its name, and says what happened when the child hung, crashed or said nothing."""
    remedy = "reinstall it or use inductor" if BACKENDS[name].native else "try again when the machine is less busy"
    trial = child.Trial("compilers.choice.child", [name, str(device), *_place()], _AT_WORK, remedy)
    return child.prove_in_child(trial, starting, working)


def _place() -> tuple[str, str]:
    """Where compiled code is kept, and how many bytes of it, for the child, which has no ComfyUI to ask."""
    try:
        place = WARM.place()
    except (OSError, RuntimeError, ValueError):
        place = Place()
    return "" if place.folder is None else str(place.folder), str(place.limit)


def prove(say: Callable[..., None], name: str, device: str, kept: str = "", kept_limit: str = "0") -> Proof:
    """What the child does."""
    if kept:
        WARM.place = lambda: Place(Path(kept), int(kept_limit))
    say(doing=f"loading {name}")
    backend = BACKENDS[name]
    try:
        backend.start_up(torch.device(device))
    except Exception as error:  # a broken installation may raise anything
        return Proof(False, backend.explain(error).reason)
    say(doing=_AT_WORK)
    return try_out(backend, torch.device(device))
