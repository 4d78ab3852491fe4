"""Writes checkpoints with random weights, in the layout that ComfyUI's loaders detect. Pictures from them are noise.

Runs in the environment, with the host's folder: `python scripts/standins.py HOST NAME FILE`. The shapes come from the
host's own model classes, built on the meta device; the values from one seed, scaled so that every layer's output stays
near 1. They are drawn on a GPU where there is one: billions of them take minutes on a CPU.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = 15
Shapes = dict[str, tuple[int, ...]]


def recipes() -> dict[str, list[tuple[str, Callable[[], Any], str]]]:
    """Per stand-in, its parts: key prefix, the module with the shapes, storage type."""
    unet, vae, text = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
    return {
        # 107 M parameters in the UNet; float32, so that a CPU computes as stored.
        "sd15_small": [
            (unet, unet_small, "float32"),
            (text, text_model, "float16"),
            (vae, lambda: kl(4, 32), "float32"),
        ],
        "sd15": [(unet, unet_full, "float16"), (text, text_model, "float16"), (vae, lambda: kl(4, 128), "float16")],
        "flux_small": [("", flux, "float32")],
        "flux_vae": [("", lambda: kl(16, 32), "float32")],
        # For the benchmarks: a UNet or transformer alone, another checkpoint of the class (other seed), and a LoRA.
        "sdxl_vega": [("", lambda: unet_sdxl([1, 2]), "float16")],
        "sdxl": [("", lambda: unet_sdxl([2, 10]), "float16")],
        # Whole checkpoints, as narrow as the loader takes them for SDXL's and SVD's: text and image encoders are fixed.
        "sdxl_narrow": [
            (unet, lambda: unet_sdxl([2, 10], widths=(1, 1, 1)), "float16"),
            ("conditioner.embedders.0.transformer.", text_model, "float16"),
            ("conditioner.embedders.1.model.transformer.", lambda: text_encoder("clip_config_bigg"), "float16"),
            (vae, lambda: kl(4, 32), "float32"),
        ],
        "svd_narrow": [
            (unet, unet_svd, "float16"),
            ("conditioner.embedders.0.open_clip.model.visual.", image_encoder, "float16"),
            (vae, kl_video, "float16"),
        ],
        "sd15_small_other": [("", unet_small, "float32")],
        "sd15_small_lora": [("", lambda: lora(unet_small()), "float32")],
        "sdxl_vega_other": [("", lambda: unet_sdxl([1, 2]), "float16")],
        "sdxl_vega_lora": [("", lambda: lora(unet_sdxl([1, 2])), "float32")],
        "flux_small_other": [("", flux, "float32")],
        "flux_small_lora": [("", lambda: lora(flux()), "float32")],
        "flux_mid": [("", lambda: flux(1024, 4, 8), "float32")],
        "flux": [("", lambda: flux(3072, 19, 38, 4096), "bfloat16")],
        "wan_small": [("", wan, "float32")],
        "wan_small_other": [("", wan, "float32")],
        "wan_small_lora": [("", lambda: lora(wan()), "float32")],
        # A text encoder by itself: unlike one inside an SD 1.5 checkpoint, it has the text projection that Flux reads.
        "clip_l": [("", text_encoder, "float16")],
    }


def unet_small() -> Any:
    return _unet(num_res_blocks=[1, 1], channel_mult=(1, 2), transformer_depth=[1, 1], transformer_depth_output=[1] * 4)


def unet_full() -> Any:
    return _unet(
        num_res_blocks=[2] * 4,
        channel_mult=(1, 2, 4, 4),
        transformer_depth=[1] * 6 + [0] * 2,
        transformer_depth_output=[1] * 9 + [0] * 3,
    )


def unet_sdxl(depths: list[int], widths: tuple[int, ...] = (1, 2, 4)) -> Any:
    """SDXL's UNet with so many transformer blocks at its two deeper levels: [2, 10]; Segmind Vega's has [1, 2]."""
    one, two = depths
    return _unet(
        num_heads=-1,
        num_head_channels=64,
        context_dim=2048,
        adm_in_channels=2816,
        num_classes="sequential",
        use_linear_in_transformer=True,
        num_res_blocks=[2] * 3,
        channel_mult=widths,
        transformer_depth=[0, 0, one, one, two, two],
        transformer_depth_output=[0] * 3 + [one] * 3 + [two] * 3,
        transformer_depth_middle=-1 if two == 2 else two,
    )


def unet_svd() -> Any:
    """SVD's UNet, equally narrow at its four levels."""
    return _unet(
        in_channels=8,
        num_heads=-1,
        num_head_channels=64,
        context_dim=1024,
        adm_in_channels=768,
        num_classes="sequential",
        use_linear_in_transformer=True,
        num_res_blocks=[2] * 4,
        channel_mult=(1, 1, 1, 1),
        transformer_depth=[1] * 6 + [0] * 2,
        transformer_depth_output=[1] * 9 + [0] * 3,
        use_temporal_attention=True,
        use_temporal_resblock=True,
        extra_ff_mix_layer=True,
        use_spatial_context=True,
        merge_strategy="learned_with_images",
        merge_factor=0.0,
        video_kernel_size=[3, 1, 1],
    )


def _unet(**settings: Any) -> Any:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    usual = {"in_channels": 4, "num_heads": 8, "transformer_depth_middle": 1, "context_dim": 768}
    return UNetModel(
        image_size=32,
        out_channels=4,
        model_channels=320,
        use_spatial_transformer=True,
        legacy=False,
        **{**usual, **settings},
    )


def text_encoder(config: str = "sd1_clip_config") -> Any:
    return _clip("CLIPTextModel", config)


def image_encoder() -> Any:
    """OpenCLIP's ViT-H, the smallest that gives the 1024 channels which SVD reads."""
    return _clip("CLIPVisionModelProjection", "clip_vision_config_h")


def _clip(kind: str, config: str) -> Any:
    import json

    import comfy.clip_model
    import comfy.ops

    settings = json.loads((Path(comfy.clip_model.__file__).parent / f"{config}.json").read_text())
    return getattr(comfy.clip_model, kind)(settings, None, "meta", comfy.ops.disable_weight_init)


def text_model() -> dict[str, Any]:
    """Without the text projection, which SD 1.5 checkpoints do not carry."""
    return {k: v for k, v in text_encoder().state_dict().items() if k.startswith("text_model.")}


def kl(channels: int, decoder_width: int) -> Any:
    """An autoencoder with the standard encoder; the loader accepts a decoder of any width, and 32 decodes quickly."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = _coder_config(channels)
    decoder = {**config, "ch": decoder_width}
    if channels == 4:
        return AutoencoderKL(ddconfig=config, embed_dim=channels, decoder_ddconfig=decoder)
    return _coders(config, "diffusionmodules.model.Decoder", decoder)


def kl_video() -> Any:
    """SVD's: the decoder looks at the frames beside each."""
    config = _coder_config(4)
    decoder = {**config, "video_kernel_size": [3, 1, 1], "alpha": 0.0}
    return _coders(config, "temporal_ae.VideoDecoder", decoder)


def _coder_config(channels: int) -> dict[str, Any]:
    sizes = {"resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    return {"double_z": True, "z_channels": channels, **sizes, "attn_resolutions": [], "dropout": 0.0}


def _coders(encoder: dict[str, Any], kind: str, decoder: dict[str, Any]) -> Any:
    from comfy.ldm.models.autoencoder import AutoencodingEngine

    modules = "comfy.ldm.modules."
    return AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": f"{modules}diffusionmodules.model.Encoder", "params": encoder},
        decoder_config={"target": modules + kind, "params": decoder},
    )


def flux(width: int = 256, depth: int = 2, single: int = 4, context: int = 768) -> Any:
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    return Flux(
        image_model="flux",
        in_channels=16,
        out_channels=16,
        vec_in_dim=768,
        context_in_dim=context,
        hidden_size=width,
        mlp_ratio=4.0,
        num_heads=width // 128,
        depth=depth,
        depth_single_blocks=single,
        axes_dim=[16, 56, 56],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=False,
        txt_ids_dims=[],
        operations=comfy.ops.disable_weight_init,
    )


def wan() -> Any:
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    return WanModel(
        model_type="t2v",
        dim=512,
        ffn_dim=1024,
        num_heads=4,
        num_layers=2,
        operations=comfy.ops.disable_weight_init,
    )


def lora(model: Any, rank: int = 4) -> dict[str, Any]:
    """A LoRA on every matrix of a model's blocks: `diffusion_model.blocks.0.ffn.0.lora_up.weight`, (out, rank)."""
    import torch

    result = {}
    for name, value in model.state_dict().items():
        if "blocks." in name and name.endswith(".weight") and value.ndim == 2:
            path = f"diffusion_model.{name.removesuffix('.weight')}"
            result[f"{path}.lora_up.weight"] = torch.empty(value.shape[0], rank, device="meta")
            result[f"{path}.lora_down.weight"] = torch.empty(rank, value.shape[1], device="meta")
    return result


def random_weights(shapes: Shapes, dtype: str, generator: Any) -> dict[str, Any]:
    """Weights that keep a signal's size: `(320, 4, 3, 3)` has a fan-in of 36 and gets a deviation of 1/6."""
    import torch

    result = {}
    for name, shape in sorted(shapes.items()):
        value = torch.randn(shape, generator=generator, device=generator.device)
        if len(shape) >= 2:
            value *= (0.4 if name.endswith("conv_out.weight") else 1.0) / math.sqrt(math.prod(shape[1:]))
        elif name.endswith(("weight", "scale")):
            value = 1 + value * 0.05
        else:
            value *= 0.02
        result[name] = value.to(getattr(torch, dtype)).cpu()
    return result


def build(name: str) -> dict[str, Any]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(SEED + name.endswith(("_other", "_lora")))
    result: dict[str, Any] = {}
    for prefix, make, dtype in recipes()[name]:
        with torch.device("meta"):
            part = make()
        state = part if isinstance(part, dict) else part.state_dict()
        shapes = {prefix + key: tuple(value.shape) for key, value in state.items()}
        result.update(random_weights(shapes, dtype, generator))
    return result


def main(host: str, name: str, file: str) -> None:
    # The host's folder takes the place of scripts/: both have a server.py.
    sys.path[0] = host
    # The host reads its command line when it is imported.
    sys.argv[1:] = ["--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    from safetensors.torch import save_file

    partial = f"{file}.{os.getpid()}.partial"
    try:
        save_file(build(name), partial, {"format": "pt", "onediff": "random weights: pictures are noise"})
        os.replace(partial, file)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


if __name__ == "__main__":
    main(*sys.argv[1:4])
