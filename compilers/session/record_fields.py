"""What a session knows, as fields of the status record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...measure.verdict import verdict, within_spread
from ...status.machine import machine, package_version
from ..backends.protocol import Backend
from ..blocks.parity import worst
from ..blocks.shared_graph import Counts
from ..measuring.block import Block
from ..measuring.step_measuring import Measuring
from .compiler import Compiler
from .failures import gain_nothing, kinds_of
from .sampling import Sampling


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


def backend_field(requested: str, used: Backend | None, reason: str) -> dict[str, Any]:
    """The record's ``backend`` field. ``reason``: why this one, or why the model runs uncompiled."""
    name, version = (used.name, package_version(used.package)) if used else (None, None)
    return {"requested": requested, "used": name, "version": version, "reason": reason}


@dataclass(frozen=True)
class Known:
    """The parts of a session that are published. ``uncompiled_because`` says why the model runs uncompiled as a whole,
    ``replaced_by`` is the node whose session took this one's place. ``was_checked``: the check of the model ended.
    ``patch_speedup``: how many times as fast patched attention makes a step, None where that is not known. ``unit``:
    what times are of, "step" or "run"."""

    blocks: Sequence[Block]
    compiler: Compiler
    measuring: Measuring
    breaks: Sequence[dict[str, str]]
    patched: Sequence[dict[str, str]]
    foreign: Sequence[dict[str, str]]
    uncompiled_because: str | None
    replaced_by: str | None
    sampling: Sampling
    was_checked: bool
    keeps_faster: bool
    device: torch.device
    host_version: str | None
    patch_speedup: float | None = None
    unit: str = "step"


def state_of(known: Known) -> str:
    """The record's ``state``."""
    if known.replaced_by is not None:
        return "idle"
    if known.uncompiled_because is not None or known.sampling.in_none:
        return "uncompiled"
    called = [block for block in known.blocks if block.called]
    if not any(block.compiled for block in called):
        return "measuring" if known.sampling.now else "idle"
    return "compiled" if all(block.compiled for block in called) else "partial"


def _stopped(known: Known) -> dict[str, Any] | None:
    """How far compiling came when it stopped before it was done, and goes on in the next sampling; else None.
    ``beside``: nobody stopped it, a compiler is at work while the picture is made uncompiled, and after it."""
    if known.sampling.in_none:
        return None
    called = [block for block in known.blocks if block.called]
    left = sum(block.pending for block in called)
    beside = any(graph.library is not None for block in called for graph in block.graphs.values())
    beside = beside and (known.sampling.now or not known.sampling.broke_off)
    began = any(block.parity is not None for block in known.blocks)
    ends = known.compiler.waiting or beside or (not known.sampling.now and (known.sampling.broke_off or began))
    nothing_left = not left and known.was_checked
    if not ends or nothing_left or known.replaced_by is not None or known.uncompiled_because is not None:
        return None
    return {"done": len(called) - left, "total": len(called), "beside": beside}


def session_fields(known: Known, backend: dict[str, Any] | None) -> dict[str, Any]:
    """Everything that a session knows now. What was not measured yet is None.

    Args:
        backend: the record's ``backend`` field as it is.
    """
    compared = [block.parity for block in known.blocks if block.parity is not None]
    if backend is not None:
        reason = known.uncompiled_because or " ".join([known.compiler.why, *known.compiler.notes])
        if known.uncompiled_because and backend["used"] and backend["requested"] not in ("auto", backend["used"]):
            reason = f"{known.compiler.why} {reason}"  # that another one was asked for is the first to be said
        backend = {**backend, "reason": reason, "replaced_by": known.replaced_by}
    measuring = known.measuring
    return {
        "state": state_of(known),
        "progress": None,
        "backend": backend,
        "patches": {"sites": list(known.patched), "foreign": list(known.foreign)},
        "compile": _compile(known),
        "unused": known.sampling.unused,
        "speed": _speed(known) if measuring.last_steps and not known.sampling.in_none else None,
        "not_finite": None if known.sampling.gave_numbers else True,
        "parity": worst(compared).as_dict() if compared and known.sampling.gave_numbers else None,
        "memory": measuring.peaks if any(measuring.peaks.values()) else None,
        "machine": machine(known.device, known.host_version),
    }


def _compile(known: Known) -> dict[str, Any]:
    """Graphs in use, and what this session spent on them: a graph that was there before costs it nothing."""
    blocks, compiler = known.blocks, known.compiler
    called = [block for block in blocks if block.called]
    first_block = {graph: block.path for block in reversed(blocks) for graph in block.graphs.values()}
    spent = {graph: graph.counts() - compiler.baseline[graph] for graph in first_block}
    in_all = sum(spent.values(), Counts())
    kinds, kinds_compiled = kinds_of(called)
    return {
        "unit": known.unit,
        "regions": len(called),
        "regions_compiled": sum(block.compiled for block in called),
        "regions_uncompiled": [
            {"path": block.path, "reason": block.uncompiled_because} for block in called if block.uncompiled_because
        ]
        + known.sampling.beside,
        "operators": _operators(called),
        "regions_not_called": [block.path for block in blocks if not block.called],
        "regions_without_gain": sum(block.left_for_no_gain for block in called),
        "kinds": kinds,
        "kinds_compiled": kinds_compiled,
        "stopped": _stopped(known),
        "graphs": sum(graph.graphs for graph in first_block),
        "runs": sum(graph.runs for graph in first_block) or None,
        "graph_breaks": list(known.breaks),
        "recompiles": [
            {"region": f"{graph.label}, first at {path}", "reason": reason}
            for graph, path in first_block.items()
            for reason in graph.reasons[compiler.baseline[graph].recompiles :]
        ],
        "seconds": round(in_all.seconds, 1),
        "weights": _weights(blocks),
        "cache": None if not in_all.compiles else ("cold" if in_all.cache_misses else "warm"),
        "cache_hits": in_all.cache_hits,
        "cache_misses": in_all.cache_misses,
        "seconds_saved": round(in_all.seconds_saved, 1),
        "cache_notes": compiler.backend.notes_on_kept() if compiler.backend else [],
    }


def _weights(blocks: Sequence[Block]) -> str | None:
    """What is done about weights that ComfyUI casts or patches while a model runs, None when there are none."""
    cast = [block for block in blocks if block.casts_weights and not block.uncompiled_because]
    if not cast:
        return None
    where = "in dynamic VRAM" if any(block.in_dynamic_vram for block in cast) else "partly loaded"
    return f"{where}: the weights of {len(cast)} blocks are made ready block by block."


def _speed(known: Known) -> dict[str, Any]:
    """Times of steps like the last one. ``kept`` is None while it is not decided; ``clear`` says whether one way is
    faster, by the ``pairs`` of steps that were compared (``spread``: the middle half of their ratios). Until these
    agree, and some steps after them do, there is neither ``speedup`` nor ``verdict``: a few pairs that happen to fall
    alike say nothing. After all of them what is not clear is no gain, and so is what blocks showed that are all left.
    What the last steps contradict is left out, as is the ratio of pairs that do not agree."""
    measuring, times, shape = known.measuring, known.measuring.times, known.measuring.shape
    eager, compiled = times.typical(shape)
    kept = None
    nothing = gain_nothing([block for block in known.blocks if block.called])
    if measuring.is_slow or nothing:
        kept = "uncompiled"
    elif compiled is not None and known.uncompiled_because is None:
        kept = "compiled" if measuring.settled or not known.keeps_faster else None
    runs_compiled = kept != "uncompiled" and compiled is not None
    current = times.now(shape, compiled=runs_compiled) or (compiled if runs_compiled else eager)
    spread = times.spread(shape)
    if not times.stands(shape):
        eager, compiled, spread = (None, current, None) if runs_compiled else (current, None, None)
    compared = measuring.tells
    speedup = eager / compiled if eager and compiled and compared else None
    clear = measuring.kept is not None and compared if spread else None
    found = verdict(speedup) if speedup else None
    if nothing or (clear is False and kept == "uncompiled"):
        found = "same"
    elif clear is False and speedup and spread and within_spread(speedup, spread) and (not kept or found != "same"):
        found = None
    return {
        "unit": known.unit,
        "eager_ms": _round(eager, 2),
        "compiled_ms": _round(compiled, 2),
        "speedup": max(round(speedup, 3), 0.001) if speedup else None,
        "verdict": found,
        "per_second": _round(1000 / current, 3) if current else None,
        "steps_ms": [milliseconds for milliseconds, _, _ in measuring.last_steps],
        "steps_kind": [kind for _, kind, _ in measuring.last_steps],
        "steps_size": [size for _, _, size in measuring.last_steps],
        **_together(known.patch_speedup, eager, speedup if found and kept != "uncompiled" else None),
        "kept": kept,
        "clear": clear,
        "pairs": times.pairs(shape),
        "spread": [round(value, 3) for value in spread] if spread else None,
        "breakeven_images": _breakeven(known, eager, compiled) if found == "faster" and kept != "uncompiled" else None,
    }


def _together(patch: float | None, eager: float | None, speedup: float | None) -> dict[str, Any]:
    """What patches and compiling gain together: a step without them was not run, its time is computed."""
    total = None if patch is None else patch * (speedup or 1.0)
    without = eager * patch if eager is not None and patch is not None else None
    return {
        "without_ms": _round(without, 2),
        "patch_speedup": _round(patch, 3),
        "total_speedup": _round(total, 3),
        "computed": None if patch is None else True,
    }


def _breakeven(known: Known, eager: float | None, compiled: float | None) -> float | None:
    """Pictures after which the compile seconds are earned back, at the steps of the last picture; None when nobody
    knows how many a picture has."""
    steps = known.measuring.steps_per_image
    if not eager or not compiled or not steps:
        return None
    seconds = sum(graph.seconds for graph in known.compiler.baseline)
    return round(seconds / ((eager - compiled) / 1000 * steps), 1)


def _operators(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Foreign code that ran inside compiled blocks, and its milliseconds in the last step, where they are known."""
    found: dict[tuple[str, str], list[float | None]] = {}
    for block in blocks:
        times: dict[tuple[str, str], float | None] = {}
        for one in block.operators.values():
            name = (one.what, one.where)
            before = times.get(name, 0.0)
            times[name] = None if one.ms is None or before is None else before + one.ms
        for name, ms in times.items():
            found.setdefault(name, []).append(ms)
    return [
        {
            "what": what,
            "where": where,
            "blocks": len(ms),
            "ms": None if None in ms else _round(sum(filter(None, ms)), 2),
        }
        for (what, where), ms in found.items()
    ]


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
