"""Old boosters: what their settings mean to OneDiff Compile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...patching.skipping.deep_cache import CacheSettings
from ..compile import EFFORTS
from .given import Given

FAST, MAX = EFFORTS

#: Words in a mode of torch.compile or nexfort that ask the compiler to try more variants.
_THOROUGH = ("max-autotune", "max-optimize")


@dataclass(frozen=True)
class Boost:
    """What a booster asks for. ``off``: not to compile; ``int8``: what this pack does not do."""

    backend: str = "auto"
    effort: str = FAST
    off: bool = False
    int8: bool = False
    cache: CacheSettings | None = None


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
    cached = _linked(given, "deepcache_booster")
    return replace(boost, int8=boost.int8 or quantises, cache=cached.cache if cached else boost.cache)


def cache_settings(given: Given) -> CacheSettings:
    """DeepCache's, of a booster or of a node that has them itself."""
    fields = {field.name: field for field in given.row.inputs}
    values = (
        int(given.number(name, fields[name].default, fields[name].least, fields[name].most))
        for name in ("cache_interval", "cache_layer_id", "cache_block_id", "start_step", "end_step")
    )
    return CacheSettings(*values)


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
    parts += ["no int8"] * boost.int8
    if boost.cache is not None:
        parts.append(f"DeepCache, interval {boost.cache.interval}")
    return " · ".join(parts)


_MAKERS = {
    "OneDiffTorchCompileBooster": _torch_compile,
    "OneDiffNexfortBooster": _nexfort,
    "OneDiffOnlineQuantizationBooster": lambda given: Boost(int8=True),
    "OneFlowDeepcacheBooster": lambda given: Boost(cache=cache_settings(given)),
    "OneDiffModelBooster": _together,
}
