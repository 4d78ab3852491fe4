"""What the picture of a speed report says, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ..status.summary import count, longer
from .figures import Difference, SpeedReport, duration


def headline(report: SpeedReport) -> str:
    """The result in a few words: "1.62× as fast compiled"."""
    speedup = report.speedup
    if speedup is None:
        return "Nothing was compiled"
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
    """Two lines: how far the pictures are apart, and the machine."""
    machine, backend = report.machine, report.backend
    versions = [f"{name} {machine[key]}" for key, name in _VERSIONS.items() if machine.get(key)]
    if backend.get("used"):
        versions.insert(0, f"backend {backend['used']}")
    when = (report.measured_at or "")[:10]
    return error_line(report), " · ".join(part for part in (machine.get("device"), *versions, when) if part)


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
    """What compiling took: "compiled in 41.3 s · 36 of 38 blocks"."""
    cost = report.cost
    if cost is None:
        return ""
    blocks = count(cost.blocks, "block")
    if cost.blocks_compiled != cost.blocks:
        blocks = f"{cost.blocks_compiled} of {blocks}"
    when = "compiled" if cost.fresh else "compiled earlier"
    warm = ", cache warm" if cost.cache == "warm" else ""
    return f"{when} in {duration(cost.seconds * 1e3)}{warm} · {blocks}"


def breakeven_line(report: SpeedReport) -> str:
    """When that is earned back."""
    pictures = report.breakeven_images
    if report.compiled is None:
        return ""
    if pictures is None:
        return "compiling is never earned back" if report.outcome == "slower" else "compiling earns nothing back"
    if pictures < 0.05:
        return "earned back at once"
    return f"earned back after {f'{pictures:.1f}' if pictures < 9.95 else f'{pictures:,.0f}'} pictures"
