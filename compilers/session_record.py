"""A session as fields of the status record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..status.machine import machine

if TYPE_CHECKING:
    from .graphs import SharedGraph
    from .session import Session


def fields(session: Session) -> dict[str, Any]:
    """Everything that a session knows now."""
    from .session import worst_parity

    parity = worst_parity(session.runners)
    backend = session.record["backend"]
    if session.given_up is not None and backend is not None:
        backend = {**backend, "reason": session.given_up}
    return {
        "state": session._state(),
        "progress": None,
        "backend": backend,
        "patches": {"sites": [], "foreign": session._foreign},
        "compile": _compile(session),
        "speed": _speed(session),
        "parity": parity.as_dict() if parity else None,
        "memory": session.peaks,
        "machine": machine(session.device, session.host.version),
    }


def _graphs(session: Session) -> list[SharedGraph]:
    """The distinct graphs that the session's blocks use."""
    return list({id(g): g for runner in session.runners for g in runner.graphs.values()}.values())


def _compile(session: Session) -> dict[str, Any]:
    graphs = _graphs(session)
    uncompiled = [
        {"path": runner.region.path, "reason": runner.reason or runner.skipped}
        for runner in session.runners
        if runner.reason or runner.skipped
    ]
    hits, misses = sum(g.cache_hits for g in graphs), sum(g.cache_misses for g in graphs)
    return {
        "regions": len(session.runners),
        "regions_compiled": sum(r.parity is not None and not (r.reason or r.skipped) for r in session.runners),
        "regions_uncompiled": uncompiled,
        "graphs": sum(g.graphs for g in graphs),
        "graph_breaks": [b for g in graphs for b in g.breaks],
        "recompiles": [{"region": g.label, "reason": reason} for g in graphs for reason in g.reasons],
        "seconds": round(sum(g.seconds for g in graphs), 1),
        "cache": None if hits + misses == 0 else ("warm" if misses == 0 else "cold"),
    }


def _speed(session: Session) -> dict[str, Any]:
    eager, compiled = session._medians()
    speedup = eager / compiled if eager and compiled else None
    kept = None
    if speedup is not None:
        kept = "uncompiled" if session.given_up is not None else "compiled"
    current = eager if kept == "uncompiled" or compiled is None else compiled
    return {
        "eager_ms": _round(eager),
        "compiled_ms": _round(compiled),
        "speedup": None if speedup is None else round(speedup, 3),
        "per_second": None if not current else round(1000 / current, 3),
        "steps_ms": list(session.times.last),
        "kept": kept,
        "breakeven_images": _breakeven(session, eager, compiled),
    }


def _breakeven(session: Session, eager: float | None, compiled: float | None) -> float | None:
    """Pictures after which the compile seconds are earned back, at the steps of the last picture. None when compiling
    saves nothing."""
    if not eager or not compiled or compiled >= eager or not session._images:
        return None
    saved_seconds = (eager - compiled) / 1000 * session._images[-1]
    return round(sum(g.seconds for g in _graphs(session)) / saved_seconds, 1)


def _round(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 2)
