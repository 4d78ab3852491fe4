"""What the picture of a speed report says, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..status.summary import count, longer
from .figures import Difference, SpeedReport


def headline(report: SpeedReport) -> str:
    """The result in a few words: "1.62× as fast compiled"."""
    speedup = report.speedup
    if speedup is None:
        return "Nothing was compiled"
    if report.noisy:
        return f"Noisy, no clear difference ({speedup:.2f}×)"
    words = {
        "faster": f"{speedup:.2f}× as fast compiled",
        "slower": f"Compiled steps take {longer(speedup)}",
        "same": f"Compiling makes no difference ({speedup:.2f}×)",
    }
    return words[report.outcome]


def subject(report: SpeedReport) -> str:
    """What was measured: "UNetModel · 860 M parameters · float16 · 512×512 pixels, latent 1×4×64×64 ·
    attention sdpa · euler, 8 steps, cfg 7"."""
    model, setup = report.model, report.setup
    parameters = model.get("parameters")
    latent = " + ".join("×".join(map(str, shape)) for shape in setup.get("latent") or ())
    pixels = "×".join(map(str, setup.get("pixels") or ()))
    size = [*([f"{pixels} pixels"] if pixels else []), *([f"latent {latent}"] if latent else [])]
    sampler = f"{setup['sampler']}, " if setup.get("sampler") else ""
    cfg = f", cfg {setup['cfg']:g}" if setup.get("cfg") is not None else ""
    parts = [
        model.get("class"),
        f"{parameters_short(parameters)} parameters" if parameters else None,
        model.get("dtype"),
        ", ".join(size),
        attention(setup.get("processors") or ()),
        f"{sampler}{count(report.steps, 'step')}{cfg}",
    ]
    return " · ".join(part for part in parts if part)


def place(report: SpeedReport) -> str:
    """Which file on which machine: "sd15.safetensors · NVIDIA H200"."""
    return " · ".join(part for part in (report.model.get("file"), report.machine.get("device")) if part)


def attention(processors: Sequence[str]) -> str | None:
    """``attention(["sdpa"])`` is "attention sdpa"; a long list is counted. None: the model's own."""
    named = f"attention {', '.join(processors)}"
    if not processors:
        return None
    return named if len(named) <= 40 else f"attention by {count(len(processors), 'patched processor')}"


def spread(low: float, high: float) -> str:
    """``spread(71.62, 74.4)`` is "71.6 to 74.4": three digits each, in whichever unit they have."""
    return " to ".join(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in (low, high))


def parameters_short(number: int) -> str:
    """``parameters_short(859520964)`` is "860 M"."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            value = number / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return str(number)


def footer(report: SpeedReport) -> tuple[str, str]:
    """Two lines: how far the pictures are apart, and what ran where and when."""
    machine, backend = report.machine, report.backend
    versions = [f"{name} {machine[key]}" for key, name in _VERSIONS.items() if machine.get(key)]
    if backend.get("used"):
        versions.insert(0, f"backend {backend['used']}")
    when = (report.measured_at or "")[:10]
    return error_line(report), " · ".join(part for part in (*versions, when) if part)


_VERSIONS = {"onediff": "OneDiff", "torch": "PyTorch", "comfyui": "ComfyUI"}


def error_line(report: SpeedReport) -> str:
    """How far compiled and uncompiled final latents are apart."""
    if report.error is None:
        return "Uncompiled steps only; there is nothing to compare."
    line = f"Difference of the final latents, compiled to uncompiled: {_apart(report.error)}"
    if report.repeat is not None:
        line += f"; two uncompiled runs: {_apart(report.repeat)}"
    return line + "."


def _apart(found: Difference) -> str:
    values = found.as_dict()
    if values["relative"] is None or values["max_abs"] is None:
        return "NaN, Inf or another shape"
    return "none" if found.max_abs == 0 else f"{found.relative:.1e} relative, {found.max_abs:.1e} at most"


def cost_line(report: SpeedReport) -> str:
    """What compiling took: "compiling took 41 s (from scratch) · 36 of 38 blocks"."""
    cost = report.cost
    if cost is None:
        return ""
    blocks = count(cost.blocks, "block")
    if cost.blocks_compiled != cost.blocks:
        blocks = f"{cost.blocks_compiled} of {blocks}"
    how = {"warm": "warm start", "cold": "from scratch"}.get(cost.cache or "") if cost.fresh else "in an earlier run"
    seconds = f"{cost.seconds:.1f}" if cost.seconds < 10 else f"{cost.seconds:.0f}"
    return f"compiling took {seconds} s{f' ({how})' if how else ''} · {blocks}"


def breakeven_line(report: SpeedReport) -> str:
    """When that is earned back."""
    pictures = report.breakeven_images
    if report.compiled is None:
        return ""
    if pictures is None:
        if report.noisy:
            return "not clear whether compiling is earned back"
        return "compiling is never earned back" if report.outcome == "slower" else "compiling earns nothing back"
    whole = math.ceil(pictures)
    return f"earned back after {whole:,} picture{'s' * (whole != 1)}" if whole else "earned back at once"
