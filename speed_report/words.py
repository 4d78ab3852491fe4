"""What the picture of a speed report says, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..measure.verdict import verdict
from .difference import Difference
from .figures import SpeedReport
from .language import ENGLISH, Say


def headline(report: SpeedReport, say: Say = ENGLISH) -> str:
    """The result in a few words: "1.62× as fast compiled", with patched attention "2.10× as fast with all nodes", and
    "1.63× as fast with patched attention" where it is not clear what compiling does. What is slower is said
    in percent."""
    speedup, patch, total = report.speedup, report.patch_speedup, report.total_speedup
    if total is not None and not report.noisy:
        return _compared("together_", total, verdict(total), say)
    if patch is not None and verdict(patch) == "faster" and not report.patch_noisy:
        return say("patched_faster", speedup=patch)
    if speedup is None:
        return say("nothing")
    if report.noisy:
        return say("noisy", speedup=speedup)
    return _compared("", speedup, report.outcome, say)


def _compared(of: str, speedup: float, outcome: str, say: Say) -> str:
    if outcome == "slower":
        slower = "slower" if speedup > 0.5 else "far_slower"
        return say(f"{of}{slower}", percent=(1 / speedup - 1) * 100, times=1 / speedup)
    return say(f"{of}{outcome}", speedup=speedup)


def subject(report: SpeedReport, say: Say = ENGLISH) -> str:
    """What was measured: "UNetModel · 860 M parameters · float16 · 512×512 pixels, latent 1×4×64×64 ·
    attention sdpa · euler, 8 steps, cfg 7"."""
    model, setup = report.model, report.setup
    parameters = model.get("parameters")
    latent = " + ".join("×".join(map(str, shape)) for shape in setup.get("latent") or ())
    pixels = "×".join(map(str, setup.get("pixels") or ()))
    size = [say("pixels", size=pixels)] * bool(pixels) + [say("latent", shape=latent)] * bool(latent)
    sampler = say("sampler", sampler=setup["sampler"]) if setup.get("sampler") else ""
    cfg = f", cfg {setup['cfg']:g}" if setup.get("cfg") is not None else ""
    parts = [
        model.get("class"),
        say("parameters", number=parameters_short(parameters)) if parameters else None,
        model.get("dtype"),
        ", ".join(size),
        attention(setup.get("processors") or (), say),
        f"{sampler}{say.counted(report.steps, 'steps', 'step')}{cfg}",
    ]
    return " · ".join(part for part in parts if part)


def parts(report: SpeedReport, say: Say = ENGLISH) -> str | None:
    """What patch and compiling gain by themselves: "attention 1.75×, compiled 1.20×"; None where nothing is patched."""
    if report.patch_speedup is None:
        return None
    attention_said = "part_attention_unclear" if report.patch_noisy else "part_attention"
    found = [say(attention_said, speedup=report.patch_speedup)]
    if report.speedup is not None:
        found.append(say("part_unclear" if report.noisy else "part_compiled", speedup=report.speedup))
    return ", ".join(found)


def place(report: SpeedReport, say: Say = ENGLISH) -> str:
    """Which file on which machine: "sd15.safetensors · NVIDIA H200"; before it the parts of the result."""
    told = (parts(report, say), report.model.get("file"), report.machine.get("device"))
    return " · ".join(part for part in told if part)


def attention(processors: Sequence[str], say: Say = ENGLISH) -> str | None:
    """``attention(["sdpa"])`` is "attention sdpa"; a long list is counted. None: the model's own."""
    named = say("attention", names=", ".join(processors))
    if not processors:
        return None
    return named if len(named) <= 40 or len(processors) < 2 else say("attention_by", count=len(processors))


def spread(low: float, high: float, say: Say = ENGLISH) -> str:
    """``spread(71.62, 74.4)`` is "71.6 to 74.4": three digits each, in whichever unit they have."""
    low_said, high_said = (f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in (low, high))
    return say("to", low=low_said, high=high_said)


def parameters_short(number: int) -> str:
    """``parameters_short(859520964)`` is "860 M"."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            value = number / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return str(number)


def footer(report: SpeedReport, say: Say = ENGLISH) -> tuple[str, str]:
    """Two lines: how far the pictures are apart, and what ran where and when."""
    machine, backend = report.machine, report.backend
    versions = [f"{name} {machine[key]}" for key, name in _VERSIONS.items() if machine.get(key)]
    if backend.get("used"):
        versions.insert(0, say("backend", name=backend["used"]))
    when = (report.measured_at or "")[:10]
    return error_line(report, say), " · ".join(part for part in (*versions, when) if part)


_VERSIONS = {"onediff": "OneDiff", "torch": "PyTorch", "comfyui": "ComfyUI"}


def error_line(report: SpeedReport, say: Say = ENGLISH) -> str:
    """How far compiled and uncompiled final latents are apart."""
    if report.error is None:
        return say("nothing_to_compare")
    repeat = "" if report.repeat is None else say("repeat", apart=_apart(report.repeat, say))
    return say("error", apart=_apart(report.error, say), repeat=repeat)


def _apart(found: Difference, say: Say) -> str:
    values = found.as_dict()
    if values["relative"] is None or values["max_abs"] is None:
        return say("not_finite")
    return say("none") if found.max_abs == 0 else say("apart", relative=found.relative, most=found.max_abs)


def cost_line(report: SpeedReport, say: Say = ENGLISH) -> str:
    """What compiling took: "compiling took 41 s (from scratch) · 36 of 38 blocks"."""
    cost = report.cost
    if cost is None:
        return ""
    blocks = say.counted(cost.blocks, "blocks", "block")
    if cost.blocks_compiled != cost.blocks:
        blocks = say("blocks_of", done=cost.blocks_compiled, count=cost.blocks)
    how = (cost.cache if cost.cache in ("warm", "cold") else None) if cost.fresh else "earlier"
    seconds = f"{cost.seconds:.1f}" if cost.seconds < 10 else f"{cost.seconds:.0f}"
    return say("took", seconds=seconds, how=say("how", how=say(how)) if how else "", blocks=blocks)


def breakeven_line(report: SpeedReport, say: Say = ENGLISH) -> str:
    """When that is earned back."""
    pictures = report.breakeven_images
    if report.compiled is None:
        return ""
    if pictures is None:
        if report.noisy:
            return say("not_clear")
        return say("never" if report.outcome == "slower" else "nothing_back")
    whole = math.ceil(pictures)
    return say.counted(whole, "after", "after_one") if whole else say("at_once")
