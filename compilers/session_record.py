"""A session as fields of the status record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..status.machine import machine, package_version
from .cache import WARM
from .parity import worst

if TYPE_CHECKING:
    from .region_runner import RegionRunner
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


def backend_field(session: Session, reason: str) -> dict[str, Any]:
    """The record's ``backend`` field. ``reason``: why this one, or why the model runs uncompiled."""
    used = session.compiling.backend
    name, version = (used.name, package_version(used.package)) if used else (None, None)
    return {"requested": session.settings.backend, "used": name, "version": version, "reason": reason}


def state_of(session: Session) -> str:
    """The record's ``state``."""
    if session.replaced_by is not None:
        return "idle"
    if session.uncompiled_because is not None or session.unused is not None:
        return "uncompiled"
    if not any(_is_compiled(runner) for runner in session.called):
        return "measuring" if session.sampling_now else "idle"
    return "compiled" if all(_is_compiled(runner) for runner in session.called) else "partial"


def _is_compiled(runner: RegionRunner) -> bool:
    return runner.parity is not None and not runner.uncompiled_because and not runner.pending


def _stopped(session: Session) -> dict[str, int] | None:
    """How far compiling came when it stopped before it was done, and goes on in the next sampling; else None."""
    if session.unused is not None:
        return None
    left = [runner for runner in session.called if runner.pending]
    ends = session.compiling.waiting or (not session.sampling_now and (session.broke_off or _began(session)))
    nothing_left = not left and session.model is not None
    if not ends or nothing_left or session.replaced_by is not None or session.uncompiled_because is not None:
        return None
    return {"done": len(session.called) - len(left), "total": len(session.called)}


def _began(session: Session) -> bool:
    return any(runner.parity is not None for runner in session.runners)


def session_fields(session: Session) -> dict[str, Any]:
    """Everything that a session knows now. What was not measured yet is None."""
    compared = [runner.parity for runner in session.runners if runner.parity is not None]
    backend = session.record["backend"]
    if backend is not None:
        reason = session.uncompiled_because or " ".join([session.compiling.why, *session.compiling.notes])
        backend = {**backend, "reason": reason, "replaced_by": session.replaced_by}
    return {
        "state": state_of(session),
        "progress": None,
        "backend": backend,
        "patches": {"sites": session.patched, "foreign": session.foreign},
        "compile": _compile(session),
        "unused": session.unused,
        "speed": _speed(session) if session.measuring.last_steps and session.unused is None else None,
        "parity": worst(compared).as_dict() if compared else None,
        "memory": session.measuring.peaks if any(session.measuring.peaks.values()) else None,
        "machine": machine(session.device, session.host.version),
    }


def _compile(session: Session) -> dict[str, Any]:
    """Graphs in use, and what this session spent on them: a graph that was there before costs it nothing."""
    first_block = {graph: r.region.path for r in reversed(session.runners) for graph in r.graphs.values()}
    spent = {
        g: [now - before for now, before in zip(g.counts(), session.compiling.baseline[g], strict=True)]
        for g in first_block
    }
    hits, misses = sum(s[3] for s in spent.values()), sum(s[4] for s in spent.values())
    return {
        "regions": len(session.called),
        "regions_compiled": sum(map(_is_compiled, session.called)),
        "regions_uncompiled": [
            {"path": runner.region.path, "reason": runner.uncompiled_because}
            for runner in session.called
            if runner.uncompiled_because
        ],
        "regions_not_called": [runner.region.path for runner in session.runners if not runner.called],
        "regions_without_gain": sum(runner.left_for_no_gain for runner in session.called),
        "stopped": _stopped(session),
        "graphs": sum(graph.graphs for graph in first_block),
        "runs": sum(graph.runs for graph in first_block) or None,
        "graph_breaks": list(session.failures.breaks),
        "recompiles": [
            {"region": f"{graph.label}, first at {path}", "reason": reason}
            for graph, path in first_block.items()
            for reason in graph.reasons[session.compiling.baseline[graph][2] :]
        ],
        "seconds": round(sum(s[1] for s in spent.values()), 1),
        "weights": _weights(session),
        "cache": None if hits + misses == 0 else ("warm" if misses == 0 else "cold"),
        "cache_hits": hits,
        "cache_misses": misses,
        "seconds_saved": round(sum(s[5] for s in spent.values()), 1),
        "cache_notes": _cache_notes(session),
    }


def _cache_notes(session: Session) -> list[str]:
    """What people should know of the cache, and of backends that have none."""
    backend = session.compiling.backend
    if backend is None or backend.name == "inductor":
        return list(WARM.notes)
    return [f"{backend.name} compiles anew after each start: nothing is kept on disk."]


def _weights(session: Session) -> str | None:
    """What is done about weights that ComfyUI casts or patches while a model runs, None when there are none."""
    cast = [runner for runner in session.runners if runner.casts_weights and not runner.uncompiled_because]
    if not cast:
        return None
    where = "in dynamic VRAM" if any(runner.in_dynamic_vram for runner in cast) else "partly loaded"
    return f"{where}: the weights of {len(cast)} blocks are made ready block by block."


def _speed(session: Session) -> dict[str, Any]:
    """Times of steps like the last one. ``kept`` is None while it is not decided; ``clear`` says whether one way is
    faster by more than the spread of the ``pairs`` of steps that were compared (``spread``: the middle half). What the
    last steps contradict is left out."""
    measuring, times, shape = session.measuring, session.measuring.times, session.shape
    eager, compiled = times.typical(shape)
    kept = None
    if measuring.is_slow:
        kept = "uncompiled"
    elif compiled is not None and session.uncompiled_because is None:
        kept = "compiled" if measuring.settled or not session.settings.keep_faster else None
    runs_compiled = kept != "uncompiled" and compiled is not None
    current = times.now(shape, compiled=runs_compiled) or (compiled if runs_compiled else eager)
    spread = times.spread(shape)
    if not times.stands(shape):
        eager, compiled, spread = (None, current, None) if runs_compiled else (current, None, None)
    return {
        "eager_ms": _round(eager, 2),
        "compiled_ms": _round(compiled, 2),
        "speedup": _round(eager / compiled, 3) if eager and compiled and times.pairs(shape) > 1 else None,
        "per_second": _round(1000 / current, 3) if current else None,
        "steps_ms": [milliseconds for milliseconds, _ in measuring.last_steps],
        "steps_kind": [kind for _, kind in measuring.last_steps],
        "kept": kept,
        "clear": measuring.kept is not None if spread else None,
        "pairs": times.pairs(shape),
        "spread": [round(value, 3) for value in spread] if spread else None,
        "breakeven_images": None if kept == "uncompiled" else _breakeven(session, eager, compiled),
    }


def _breakeven(session: Session, eager: float | None, compiled: float | None) -> float | None:
    """Pictures after which the compile seconds are earned back, at the steps of the last picture; None when compiling
    saves nothing."""
    steps = session.measuring.steps_per_image
    if not eager or not compiled or compiled >= eager or not steps:
        return None
    seconds = sum(graph.seconds for graph in session.compiling.baseline)
    return round(seconds / ((eager - compiled) / 1000 * steps), 1)


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
