"""A session as fields of the status record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..status.machine import machine
from .cache import WARM
from .parity import worst

if TYPE_CHECKING:
    from .session import Session


def model_fields(diffusion_model: nn.Module, device: torch.device) -> dict[str, Any]:
    """The record's ``model`` field."""
    dtype = next((parameter.dtype for parameter in diffusion_model.parameters()), None)
    return {
        "model": {
            "class": type(diffusion_model).__name__,
            "parameters": sum(parameter.numel() for parameter in diffusion_model.parameters()),
            "dtype": str(dtype).removeprefix("torch."),
            "device": str(device),
        }
    }


def session_fields(session: Session) -> dict[str, Any]:
    """Everything that a session knows now. What was not measured yet is None."""
    compared = [runner.parity for runner in session.runners if runner.parity is not None]
    backend = session.record["backend"]
    if backend is not None:
        reason = session.uncompiled_because or backend["reason"]
        backend = {**backend, "reason": reason, "replaced_by": session.replaced_by}
    return {
        "state": session.state,
        "progress": None,
        "backend": backend,
        "patches": {"sites": session.patched, "foreign": session.foreign},
        "compile": _compile(session),
        "speed": _speed(session) if session.last_steps else None,
        "parity": worst(compared).as_dict() if compared else None,
        "memory": session.peaks if any(session.peaks.values()) else None,
        "machine": machine(session.device, session.host.version),
    }


def _compile(session: Session) -> dict[str, Any]:
    """Graphs in use, and what this session spent on them: a graph that was there before costs it nothing."""
    first_block = {graph: r.region.path for r in reversed(session.runners) for graph in r.graphs.values()}
    spent = {
        g: [now - before for now, before in zip(g.counts(), session.baseline[g], strict=True)] for g in first_block
    }
    hits, misses = sum(s[3] for s in spent.values()), sum(s[4] for s in spent.values())
    return {
        "regions": len(session.runners),
        "regions_compiled": sum(r.parity is not None and not r.uncompiled_because for r in session.runners),
        "regions_uncompiled": [
            {"path": runner.region.path, "reason": runner.uncompiled_because}
            for runner in session.runners
            if runner.uncompiled_because
        ],
        "graphs": sum(graph.graphs for graph in first_block),
        "graph_breaks": list(session.breaks),
        "recompiles": [
            {"region": f"{graph.label}, first at {path}", "reason": reason}
            for graph, path in first_block.items()
            for reason in graph.reasons[session.baseline[graph][2] :]
        ],
        "seconds": round(sum(s[1] for s in spent.values()), 1),
        "cache": None if hits + misses == 0 else ("warm" if misses == 0 else "cold"),
        "cache_hits": hits,
        "cache_misses": misses,
        "seconds_saved": round(sum(s[5] for s in spent.values()), 1),
        "cache_notes": _cache_notes(session),
    }


def _cache_notes(session: Session) -> list[str]:
    """What people should know of the cache, and of backends that have none."""
    if session.backend is None or session.backend.name == "inductor":
        return list(WARM.notes)
    return [f"{session.backend.name} compiles anew after each start: nothing is kept on disk."]


def _speed(session: Session) -> dict[str, Any]:
    """Times of steps like the last one. ``kept`` is None while it is not decided."""
    eager, compiled = session.times.medians(session.shape)
    speedup = eager / compiled if eager and compiled else None
    kept = None
    if session.shape in session.slow:
        kept = "uncompiled"
    elif speedup is not None and session.uncompiled_because is None:
        undecided = session.settings.keep_faster and session.times.open(session.shape)
        kept = None if undecided else "compiled"
    current = eager if kept == "uncompiled" or compiled is None else compiled
    return {
        "eager_ms": _round(eager, 2),
        "compiled_ms": _round(compiled, 2),
        "speedup": _round(speedup, 3),
        "per_second": _round(1000 / current, 3) if current else None,
        "steps_ms": [milliseconds for milliseconds, _ in session.last_steps],
        "steps_kind": [kind for _, kind in session.last_steps],
        "kept": kept,
        "breakeven_images": _breakeven(session, eager, compiled),
    }


def _breakeven(session: Session, eager: float | None, compiled: float | None) -> float | None:
    """Pictures after which the compile seconds are earned back, at the steps of the last picture; None when compiling
    saves nothing."""
    if not eager or not compiled or compiled >= eager or not session.steps_per_image:
        return None
    seconds = sum(graph.seconds for graph in session.baseline)
    return round(seconds / ((eager - compiled) / 1000 * session.steps_per_image), 1)


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
