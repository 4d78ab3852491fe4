"""Inputs that several old nodes have."""

from __future__ import annotations

from .fields import Field, file, flag, idle, link, number, switch, text, whole
from .row import OFF_HINT

MODEL, VAE, LATENT, IMAGE = (link(kind.lower(), kind) for kind in ("MODEL", "VAE", "LATENT", "IMAGE"))
CONTROL = link("control_net", "CONTROL_NET")
BOOSTER = link("custom_booster", "CUSTOM_BOOSTER")
INPLACE = idle(flag("inplace", True))
STATIC = switch("static_mode", tooltip=OFF_HINT)
CKPT = file("ckpt_name", "checkpoints")
VAE_SPEEDUP = switch("vae_speedup", "disable", tooltip="enable: the VAE is compiled too.")
GRAPH = idle(text("graph"))
DOCS = idle(text("docs_link", lines=True))

CACHE = (
    whole("cache_interval", 3, 1, 1000, "Of so many steps, the first is computed in full. 1: all are."),
    whole("cache_layer_id", 0, 0, 12, "The level of the model down to which all steps are computed; 0 is the top."),
    whole("cache_block_id", 1, 0, 12, "The block in that level."),
    whole("start_step", 0, 0, 1000, "Where skipping begins, in thousandths of the noise schedule."),
    whole("end_step", 1000, 0, 1000, "Where skipping ends, in thousandths of the noise schedule."),
)
TORCH_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
NEXFORT_MODES = (
    "max-optimize:max-autotune:low-precision",
    "max-optimize:max-autotune:low-precision:freezing:benchmark",
    "jit:disable-runtime-fusion:low-precision",
    "jit:benchmark:low-precision:freezing:cudagraphs",
    "max-autotune:benchmark:low-precision:cudagraphs",
    "max-optimize:max-autotune:benchmark:low-precision:freezing:cudagraphs",
    "max-autotune:low-precision",
    "max-autotune:benchmark:low-precision",
)
EFFORT_HINT = "With max-autotune or max-optimize the compiler tries more variants (effort: max speed)."
NEXFORT = (
    idle(flag("fullgraph", False)),
    idle(flag("dynamic", True)),
    Field("mode", "COMBO", NEXFORT_MODES[0], NEXFORT_MODES, tooltip=EFFORT_HINT),
    DOCS,
)
TORCH_COMPILE = (
    idle(flag("fullgraph", False)),
    idle(flag("dynamic", False)),
    Field("backend", "COMBO", "inductor", ("inductor",)),
    Field("mode", "COMBO", TORCH_MODES[0], TORCH_MODES, tooltip=EFFORT_HINT),
    flag("disable", False, "On: the model runs uncompiled."),
    DOCS,
)
KSAMPLER = (
    Field("seed", "INT", 0, least=0, most=2**64 - 1),
    whole("steps", 20, 1, 10_000),
    number("cfg", 8.0, 0.0, 100.0),
    Field("sampler_name", "COMBO"),
    Field("scheduler", "COMBO"),
    number("denoise", 1.0, 0.0, 1.0),
)
QUANT_SETTINGS = tuple(
    map(
        idle,
        (
            text("onediff_quant", "Quantization Settings"),
            whole("bits", 8, 8, 8),
            switch("quantize_conv"),
            switch("quantize_linear"),
            number("conv_mse_threshold", 0.1, 0.0, 1.0),
            number("linear_mse_threshold", 0.1, 0.0, 1.0),
            whole("compute_density_threshold", 0, 0, 2000),
            text("save_filename_prefix", "unet"),
            switch("overwrite", "disable"),
            switch("static_mode"),
        ),
    )
)
QUANT_FILE = (CKPT, idle(text("model_path")), switch("compile", tooltip=OFF_HINT))
LOADED, LOADED_VISION = ("MODEL", "CLIP", "VAE"), ("MODEL", "CLIP_VISION", "VAE")
