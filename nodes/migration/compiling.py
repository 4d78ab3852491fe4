"""Old nodes that compile a MODEL, or load one first."""

from __future__ import annotations

from typing import Any

from ...compilers import Settings
from ...host.migration.stock_nodes import stock
from ...patching.skipping.deep_cache import CacheSettings, DeepCache
from ...patching.skipping.unet import is_unet
from ...patching.wrappers import attach
from ..compile import compiled_model
from .boosters import Boost, cache_settings
from .given import Given
from .row import CACHES, NO_INT8, NO_INT8_MODELS, NOT_YET, ONLY_MODELS


def compile_model(given: Given) -> tuple:
    """Model Speedup and its likes."""
    return (_compiled(given, given.model()),)


def load(given: Given) -> tuple:
    """Loads a checkpoint and compiles its model."""
    loader = "ImageOnlyCheckpointLoader" if _loads_video(given) else "CheckpointLoaderSimple"
    model, clip, vae = stock(loader, ckpt_name=given.file("ckpt_name", "checkpoints"))
    if given.on("vae_speedup"):
        given.lost("vae_speedup", f"the VAE is {NOT_YET}", ONLY_MODELS, "You don't need to do anything.")
    return _compiled(given, model), clip, vae


def no_model(given: Given) -> tuple:
    """The loader of int8 models, which nothing here can read."""
    given.end(
        "model_path",
        NO_INT8_MODELS,
        "Load the original model with Load Diffusion Model, followed by OneDiff Compile.",
    )
    return ()


def _compiled(given: Given, model: Any) -> Any:
    boost = _boost(given)
    if given.row.quantises or boost.int8:
        _say_int8(given)
    cache = _cache(given, boost, model)
    off = next((name for name in ("static_mode", "compile") if given.row.has(name) and not given.on(name)), None)
    if off or boost.off:
        is_off = f"{off} is “disable”" if off else "disable is on"
        fix = f"Set {off} to “enable” to compile." if off else "Turn off disable on Torch Compile Booster to compile."
        given.say(f"uncompiled: {is_off}", "The workflow turns compiling off.", fix)
        result = model if cache is None else model.clone()
    else:
        settings = Settings(backend=boost.backend, effort=boost.effort)
        result = compiled_model(model, settings, given.record, given.findings)
    if cache is not None:
        attach(result, DeepCache(cache, lambda found: given.record.update(approximate=found)))
    return result


def _cache(given: Given, boost: Boost, model: Any) -> CacheSettings | None:
    """What of DeepCache a workflow asks for; None where it does not, or the model has no blocks to leave out."""
    cache = cache_settings(given) if given.row.caches else boost.cache
    if cache is None:
        return None
    path = "cache_interval" if given.row.caches else "custom_booster"
    instead = "put ComfyUI's EasyCache behind this node."
    if not is_unet(model.get_model_object("diffusion_model")):
        what, why = "DeepCache is not used: every step is computed in full", "It needs a UNet, as SD 1.5 and SDXL have."
        given.lost(path, what, why, f"To skip steps, {instead}")
        return None
    fix = f"For the exact picture, set cache_interval to 1. To skip steps in a new workflow, {instead}"
    given.note(path, CACHES, "The workflow asks for it.", fix)
    return cache


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
    path, fix = "custom_booster", "Load a checkpoint that is already quantised, or remove Online OneFlow Quantizer."
    if given.row.quantises:
        loader = "Image Only Checkpoint Loader" if _loads_video(given) else "Load Checkpoint"
        path, fix = "ckpt_name", f"Use {loader} with OneDiff Compile."
    given.lost(path, "not quantised: the model keeps its own precision", f"{NO_INT8}.", fix)


def _loads_video(given: Given) -> bool:
    return "CLIP_VISION" in given.row.outputs
