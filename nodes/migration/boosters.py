"""Old boosters: what their settings mean to OneDiff Compile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..compile import EFFORTS
from .given import Given

FAST, MAX = EFFORTS

#: Words in a mode of torch.compile or nexfort that ask the compiler to try more variants.
_THOROUGH = ("max-autotune", "max-optimize")


@dataclass(frozen=True)
class Boost:
    """What a booster asks for. ``off``: not to compile; ``int8`` and ``caches``: what this pack does not do."""

    backend: str = "auto"
    effort: str = FAST
    off: bool = False
    int8: bool = False
    caches: bool = False


def booster(given: Given) -> tuple:
    """One booster, by its output; or all that are connected, put together."""
    boost = _MAKERS[given.row.id](given)
    given.say(_said(boost), "These are settings of OneDiff Compile.", "In new workflows, set them on OneDiff Compile.")
    return (boost,)


def _torch_compile(given: Given) -> Boost:
    mode = given.text("mode", "default")
    return Boost("inductor", _effort(mode), given.flag("disable", False))


def _nexfort(given: Given) -> Boost:
    return Boost("nexfort", _effort(given.text("mode", _THOROUGH[0])))


def _together(given: Given) -> Boost:
    boost = _linked(given, "torchcompile_booster") or Boost()
    quantises = _linked(given, "quantization_booster") is not None
    caches = _linked(given, "deepcache_booster") is not None
    return replace(boost, int8=boost.int8 or quantises, caches=boost.caches or caches)


def _linked(given: Given, name: str) -> Boost | None:
    value: Any = given.inputs.get(name)
    if value is None or isinstance(value, Boost):
        return value
    given.lost(name, f"{name} is not one of this pack's, so it is not used", "Another pack's node is connected.", "")
    return None


def _effort(mode: str) -> str:
    return MAX if any(word in mode for word in _THOROUGH) else FAST


def _said(boost: Boost) -> str:
    if boost.off:
        return "compiling is off"
    parts = [f"backend: {boost.backend}, effort: {boost.effort}"]
    parts += ["no int8"] * boost.int8 + ["no DeepCache"] * boost.caches
    return " · ".join(parts)


_MAKERS = {
    "OneDiffTorchCompileBooster": _torch_compile,
    "OneDiffNexfortBooster": _nexfort,
    "OneDiffOnlineQuantizationBooster": lambda given: Boost(int8=True),
    "OneFlowDeepcacheBooster": lambda given: Boost(caches=True),
    "OneDiffModelBooster": _together,
}
