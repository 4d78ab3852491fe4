"""Old nodes that compile a MODEL, a VAE or a ControlNet, or load one first."""

from __future__ import annotations

from typing import Any

from ...compilers import Settings
from ...host.copies.control_net import is_control_net
from ...host.copies.sessions import compiled_control_net, compiled_vae
from ...host.copies.vae import is_vae
from ...host.migration.stock_nodes import stock
from ...patching.skipping.deep_cache import CacheSettings, DeepCache
from ...patching.skipping.unet import is_unet
from ...patching.wrappers import attach
from ...status import Record
from ..compile import compiled_model
from .boosters import Boost, cache_settings
from .given import Given
from .row import CACHES, NO_INT8, NO_INT8_MODELS

_VAE_SPEEDUP = "vae_speedup"


def compile_model(given: Given) -> tuple:
    """Model Speedup and its likes."""
    return (_compiled(given, given.model()),)


def load(given: Given) -> tuple:
    """Loads a checkpoint and compiles its model."""
    loader = "ImageOnlyCheckpointLoader" if _loads_video(given) else "CheckpointLoaderSimple"
    model, clip, vae = stock(loader, ckpt_name=given.file("ckpt_name", "checkpoints"))
    if given.on(_VAE_SPEEDUP) and is_vae(vae):
        vae = _vae_too(given, vae)
    return _compiled(given, model), clip, vae


def compile_vae(given: Given) -> tuple:
    """VAE Speedup."""
    vae = given.inputs.get("vae")
    if not is_vae(vae):
        given.say("nothing to compile: no VAE is connected", "", "Connect a node that loads one.")
        return (vae,)
    settings = _settings(given)
    return (vae if settings is None else compiled_vae(vae, settings, given.record, given.findings),)


def compile_control(given: Given) -> tuple:
    """ControlNet Speedup, of both kinds."""
    if "cnet_stack" in given:
        why = "One node compiles one ControlNet, and its line says what became of that."
        fix = "Put OneDiff Compile ControlNet behind each loader, before the stack."
        given.lost("cnet_stack", "the stack is handed on as it is", why, fix)
    control = _control(given, given.inputs.get("control_net"))
    return tuple(given.inputs.get("cnet_stack") if kind != "CONTROL_NET" else control for kind in given.row.outputs)


def load_control(given: Given) -> tuple:
    """Load ControlNet Model - OneDiff."""
    loaded = stock("ControlNetLoader", control_net_name=given.file("control_net_name", "controlnet"))
    return (_control(given, loaded[0]),)


def _control(given: Given, control: Any) -> Any:
    if not is_control_net(control):
        given.say("nothing to compile: no ControlNet is connected", "", "Connect a node that loads one.")
        return control
    settings = _settings(given)
    return control if settings is None else compiled_control_net(control, settings, given.record, given.findings)


def _vae_too(given: Given, vae: Any) -> Any:
    """The node's line is the model's. What becomes of the VAE is a note in its report."""
    boost = _boost(given)
    if _off(given, boost):
        return vae
    record = Record(given.record["workflow"], given.record["node"], lambda vae: _say_of_vae(given.record, vae))
    compiled = compiled_vae(vae, Settings(backend=boost.backend), record, [])
    why = "The node's line is the model's: one line has no room for both."
    given.note(_VAE_SPEEDUP, "VAE: not used yet", why, "For a line of its own, use OneDiff Compile VAE.")
    return compiled


def _say_of_vae(record: Record, vae: Record) -> None:
    """Puts what became of the VAE into the note of it."""
    check = record["check"]
    if check is not None:
        said = f"VAE: {vae['summary']}"
        findings = [{**one, "what": said} if one["path"] == _VAE_SPEEDUP else one for one in check["findings"]]
        record.update(live=True, check={**check, "findings": findings})


def no_model(given: Given) -> tuple:
    """The loader of int8 models, which nothing here can read."""
    given.end(
        "model_path",
        NO_INT8_MODELS,
        "Load the original model with Load Diffusion Model, followed by OneDiff Compile.",
    )
    return ()


def _compiled(given: Given, model: Any) -> Any:
    cache = _cache(given, _boost(given), model)
    settings = _settings(given)
    if settings is not None:
        result = compiled_model(model, settings, given.record, given.findings)
    else:
        result = model if cache is None else model.clone()
    if cache is not None:
        attach(result, DeepCache(cache, lambda found: given.record.update(approximate=found)))
    return result


def _settings(given: Given) -> Settings | None:
    """What its booster asks for, as far as it can be had; None where the workflow turns compiling off."""
    boost = _boost(given)
    if given.row.quantises or boost.int8:
        _say_int8(given)
    off = _off(given, boost)
    if off is not None:
        given.say(f"uncompiled: {off[0]}", "The workflow turns compiling off.", off[1])
        return None
    return Settings(backend=boost.backend, effort=boost.effort)


def _off(given: Given, boost: Boost) -> tuple[str, str] | None:
    """How the workflow turns compiling off, and how to turn it on; None where it does not."""
    off = next((name for name in ("static_mode", "compile") if given.row.has(name) and not given.on(name)), None)
    if off is not None:
        return f"{off} is “disable”", f"Set {off} to “enable” to compile."
    return ("disable is on", "Turn off disable on Torch Compile Booster to compile.") if boost.off else None


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
