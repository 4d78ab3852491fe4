"""Small models of the host's own classes, with random weights, for tests inside one process."""

from __future__ import annotations

import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": 48,
    "num_heads": 2,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "dtype": torch.float32,
}

#: As many kinds of residual block as the model people use, 12.
DEEP_UNET = {
    **UNET,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}

#: Its residual blocks, with attention at one width, where theirs is the question: one kind to capture and not three.
RESIDUAL_UNET = {
    **DEEP_UNET,
    "transformer_depth": [0, 0, 0, 0, 1, 1, 0, 0],
    "transformer_depth_output": [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0],
}

#: SDXL's: transformer blocks at the deeper level alone, two at each place, and an embedding of prompt and sizes.
SDXL = {
    **UNET,
    "channel_mult": [1, 1],
    "transformer_depth": [0, 2],
    "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 2, 2],
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 32 + 6 * 256,
}

FLUX = {
    "image_model": "flux",
    "in_channels": 4,
    "out_channels": 4,
    "vec_in_dim": 32,
    "context_in_dim": 48,
    "hidden_size": 64,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 3,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
    "dtype": torch.float32,
}


def unet_patcher(seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """A Stable Diffusion 1.5 architecture, about 1 M parameters, in a ModelPatcher."""
    return _patcher(comfy.supported_models.SD15, UNET, seed)


def deep_unet_patcher(seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """The same as deep as the original, at a tenth of its width, in a ModelPatcher."""
    return _patcher(comfy.supported_models.SD15, DEEP_UNET, seed)


def residual_unet_patcher(seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """The same with attention at one of its widths, in a ModelPatcher."""
    return _patcher(comfy.supported_models.SD15, RESIDUAL_UNET, seed)


def sdxl_patcher(seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """A Stable Diffusion XL architecture in a ModelPatcher."""

    class Small(comfy.supported_models.SDXL):
        unet_extra_config = {"num_heads": -1, "num_head_channels": 16}  # noqa: RUF012, as the host has it

    return _patcher(Small, SDXL, seed)


def flux_of_nine_patcher(seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """A Flux of 3 double and 6 single blocks in a ModelPatcher."""
    return _patcher(comfy.supported_models.FluxSchnell, {**FLUX, "depth": 3, "depth_single_blocks": 6}, seed)


def flux_patcher(
    seed: int = 0, dtype: torch.dtype = torch.float32, computes_in: torch.dtype | None = None
) -> comfy.model_patcher.ModelPatcher:
    """A Flux of 2 double and 3 single blocks in a ModelPatcher. ``computes_in`` is the dtype that weights of another
    are cast to when they are used, as ComfyUI does with weights in float8."""
    return _patcher(comfy.supported_models.FluxSchnell, {**FLUX, "dtype": dtype}, seed, computes_in)


def _patcher(
    config: type, unet_config: dict, seed: int, computes_in: torch.dtype | None = None
) -> comfy.model_patcher.ModelPatcher:
    torch.manual_seed(seed)
    settings = config(dict(unet_config))
    settings.set_inference_dtype(unet_config["dtype"], computes_in)
    settings.custom_operations = comfy.ops.disable_weight_init if computes_in is None else comfy.ops.manual_cast
    model = settings.get_model({})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
        parameter.requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(model.eval(), torch.device("cpu"), torch.device("cpu"))


def step(
    patcher,
    size: int = 16,
    batch: int = 2,
    tokens: int = 20,
    seed: int = 1,
    sigma: float = 0.5,
    control: dict | None = None,
    **options,
) -> torch.Tensor:
    """One model call as the sampler makes it, with the patcher's wrappers and options in effect."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 4, size, size, generator=generator)
    context = torch.randn(batch, tokens, 48, generator=generator)
    transformer_options = {
        **patcher.model_options["transformer_options"],
        "wrappers": patcher.wrappers,
        "callbacks": patcher.callbacks,
        "sigmas": torch.ones(batch),
        "cond_or_uncond": [0, 1],
        **options,
    }
    wide = 32 if hasattr(patcher.model.diffusion_model, "vector_in") else 0
    wide = patcher.model.adm_channels or wide  # SDXL's
    extra: dict = {"y": torch.randn(batch, wide, generator=generator)} if wide else {}
    if control is not None:
        extra["control"] = control
    with torch.inference_mode():
        return patcher.model.apply_model(
            x, torch.full((batch,), sigma), c_crossattn=context, transformer_options=transformer_options, **extra
        )
