"""Old nodes that compile a MODEL, or load one first."""

from __future__ import annotations

from typing import Any

from ...compilers import Settings
from ...host.migration.stock_nodes import stock
from ..compile import compiled_model
from .boosters import Boost
from .given import NOT_YET, Given

_INT8_FIX = "Load a checkpoint that is quantised already, or remove this node."
_DEEPCACHE = "DeepCache is not used: every step is computed in full, and the picture is right"


def compile_model(given: Given) -> tuple:
    """Model Speedup and its likes."""
    return (_compiled(given, given.model()),)


def load(given: Given) -> tuple:
    """Loads a checkpoint and compiles its model."""
    loader = "ImageOnlyCheckpointLoader" if "CLIP_VISION" in given.row.outputs else "CheckpointLoaderSimple"
    model, clip, vae = stock(loader, ckpt_name=given.file("ckpt_name", "checkpoints"))
    if given.on("vae_speedup"):
        given.lost("vae_speedup", f"the VAE is {NOT_YET}", "Only models are compiled so far.", "Nothing is to be done.")
    return _compiled(given, model), clip, vae


def no_model(given: Given) -> tuple:
    """The loader of int8 models, which nothing here can read."""
    given.end(
        "model_path",
        "int8 models of OneDiff's enterprise build cannot be loaded",
        "Load the original model with Load Diffusion Model, and put OneDiff Compile behind it.",
    )
    return ()


def _compiled(given: Given, model: Any) -> Any:
    boost = _boost(given)
    if given.row.quantises or boost.int8:
        _say_int8(given)
    if given.row.caches or boost.caches:
        why = "DeepCache leaves blocks out in some steps, which changes the picture. It is not part of this pack yet."
        given.lost("cache_interval", _DEEPCACHE, why, "To skip steps, put ComfyUI's EasyCache behind this node.")
    off = next((name for name in ("static_mode", "compile") if given.row.has(name) and not given.on(name)), None)
    if off or boost.off:
        name = off or "disable"
        given.say(f"uncompiled: {name} is {'“disable”' if off else 'on'}", "The workflow asks for it.", "Change it.")
        return model
    settings = Settings(backend=boost.backend, effort=boost.effort)
    return compiled_model(model, settings, given.record, given.findings)


def _boost(given: Given) -> Boost:
    boost = given.inputs.get("custom_booster")
    if boost is None or isinstance(boost, Boost):
        return boost or Boost()
    given.lost(
        "custom_booster",
        "the booster is not one of this pack's, so its settings are not used",
        "Another pack's node is connected.",
        "Connect Apply Model Booster.",
    )
    return Boost()


def _say_int8(given: Given) -> None:
    given.lost(
        "quantization_booster",
        "not quantised: the model keeps its own precision",
        "int8 belonged to OneDiff's enterprise build, which is not published any more.",
        _INT8_FIX,
    )
