"""A session as fields of the status record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..status.machine import machine
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
    """Everything that a session knows now."""
    compared = [runner.parity for runner in session.runners if runner.parity is not None]
    backend = session.record["backend"]
    if session.given_up is not None and backend is not None:
        backend = {**backend, "reason": session.given_up}
    return {
        "state": session.state,
        "progress": None,
        "backend": backend,
        "patches": {"sites": [], "foreign": session.foreign},
        "compile": _compile(session),
        "speed": _speed(session),
        "parity": worst(compared).as_dict() if compared else None,
        "memory": session.peaks,
        "machine": machine(session.device, session.host.version),
    }


def _compile(session: Session) -> dict[str, Any]:
    """Graphs in use, and what this session spent on them: a graph that was there before costs it nothing."""
    used = {graph for runner in session.runners for graph in runner.graphs.values()}
    spent = [tuple(now - before for now, before in zip(g.counts(), session.baseline[g], strict=True)) for g in used]
    hits, misses = sum(s[3] for s in spent), sum(s[4] for s in spent)
    recompiles = [
        {"region": graph.label, "reason": reason}
        for graph in used
        for reason in graph.reasons[session.baseline[graph][2] :]
    ]
    return {
        "regions": len(session.runners),
        "regions_compiled": sum(r.parity is not None and not (r.reason or r.skipped) for r in session.runners),
        "regions_uncompiled": [
            {"path": runner.region.path, "reason": runner.reason or runner.skipped}
            for runner in session.runners
            if runner.reason or runner.skipped
        ],
        "graphs": sum(graph.graphs for graph in used),
        "graph_breaks": [graph_break for graph in used for graph_break in graph.breaks],
        "recompiles": recompiles,
        "seconds": round(sum(s[1] for s in spent), 1),
        "cache": None if hits + misses == 0 else ("warm" if misses == 0 else "cold"),
    }


def _speed(session: Session) -> dict[str, Any]:
    eager, compiled = session.times.medians()
    speedup = eager / compiled if eager and compiled else None
    kept = None  # while it is not decided
    if speedup is not None and session.given_up is not None:
        kept = "uncompiled"
    elif session.times.complete() or (speedup is not None and not session.settings.keep_faster):
        kept = "compiled"
    current = eager if kept == "uncompiled" or compiled is None else compiled
    return {
        "eager_ms": _round(eager, 2),
        "compiled_ms": _round(compiled, 2),
        "speedup": _round(speedup, 3),
        "per_second": _round(1000 / current, 3) if current else None,
        "steps_ms": list(session.last_steps),
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
