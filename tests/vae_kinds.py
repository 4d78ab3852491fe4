"""What ComfyUI's VAE can hold: a small one of each class, of the host's own code, with random weights.

Audio and shapes are here too: ComfyUI hands them round as VAEs. What has no size of its own to choose is as large as
the original.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import comfy.ldm.models.autoencoder as autoencoder
import torch
from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Vae:
    """How one class is made, and sizes of what it decodes and encodes: the second is the largest. ``options`` are what
    nodes add to a decode."""

    make: Callable[[], nn.Module]
    latents: tuple[Shape, ...]
    pixels: tuple[Shape, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def model(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        model = self.make().eval()
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            is_scale = parameter.ndim == 1 and not name.endswith("bias")
            nn.init.normal_(parameter, mean=1.0 if is_scale else 0.0, std=0.05)
            parameter.requires_grad_(False)
        return model


def _module(name: str) -> Any:
    return importlib.import_module(f"comfy.{name}")


def kl_config(**more: Any) -> dict[str, Any]:
    given = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32}
    return {**given, "ch_mult": [1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0, **more}


def _engine(
    encoder: str, decoder: str, config: dict[str, Any], regularizer: str = "DiagonalGaussianRegularizer", **more: Any
) -> nn.Module:
    return autoencoder.AutoencodingEngine(
        regularizer_config={"target": f"comfy.ldm.models.autoencoder.{regularizer}"},
        encoder_config={"target": f"comfy.ldm.{encoder}", "params": config},
        decoder_config={"target": f"comfy.ldm.{decoder}", "params": {**config, **more}},
    )


_UNET = "modules.diffusionmodules.model"
_HUNYUAN = {"in_channels": 3, "out_channels": 3, "num_res_blocks": 1, "downsample_match_channel": True}
_HUNYUAN |= {"upsample_match_channel": True}


def _hunyuan_image() -> nn.Module:
    config = {**_HUNYUAN, "block_out_channels": [32, 64, 64], "ffactor_spatial": 4, "z_channels": 16}
    return _engine("hunyuan_video.vae.Encoder", "hunyuan_video.vae.Decoder", config)


def _hunyuan_refiner(refiner: bool) -> nn.Module:
    config = {**_HUNYUAN, "block_out_channels": [32, 64, 64], "ffactor_spatial": 4, "ffactor_temporal": 4}
    config |= {"z_channels": 16, "refiner_vae": refiner}
    regularizer = "EmptyRegularizer" if refiner else "DiagonalGaussianRegularizer"
    return _engine("hunyuan_video.vae_refiner.Encoder", "hunyuan_video.vae_refiner.Decoder", config, regularizer)


def _wan(module: str, **more: Any) -> nn.Module:
    config: dict[str, Any] = {"z_dim": 16, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_scales": []}
    config |= {"temperal_downsample": [False, True, True], "dropout": 0.0}
    return _module(f"ldm.wan.{module}").WanVAE(dim=16, **config, **more)


def _ltx(**more: Any) -> nn.Module:
    blocks = [["res_x", 2], ["compress_all", 1], ["res_x_y", 1], ["res_x", 1], ["compress_all", 1], ["res_x", 1]]
    config = {"dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128, "blocks": blocks, "patch_size": 2}
    config |= {"encoder_base_channels": 16, "decoder_base_channels": 16, "norm_layer": "pixel_norm"}
    config |= {"latent_log_var": "uniform", "causal_decoder": False, **more}
    model = _module("ldm.lightricks.vae.causal_video_autoencoder").VideoVAE(config=config)
    return _filled(model, model.per_channel_statistics)


def _cog() -> nn.Module:
    kind = _module("ldm.cogvideo.vae").AutoencoderKLCogVideoX
    return kind(latent_channels=16, block_out_channels=(32, 32, 64, 64), layers_per_block=1)


def _cosmos() -> nn.Module:
    config: dict[str, Any] = {
        "z_channels": 16,
        "latent_channels": 16,
        "z_factor": 1,
        "resolution": 1024,
        "in_channels": 3,
    }
    config |= {"out_channels": 3, "channels": 32, "channels_mult": [2, 4, 4], "num_res_blocks": 1, "dropout": 0.0}
    config |= {"attn_resolutions": [32], "patch_size": 4, "num_groups": 1, "temporal_compression": 8}
    return _module("ldm.cosmos.vae").CausalContinuousVideoTokenizer(spacial_compression=8, **config)


def _svd() -> nn.Module:
    return _engine(
        f"{_UNET}.Encoder",
        "modules.temporal_ae.VideoDecoder",
        kl_config(),
        video_kernel_size=[3, 1, 1],
        alpha=0.0,
    )


def _mochi() -> nn.Module:
    module = _module("ldm.genmo.vae.model")
    sizes: dict[str, Any] = {"base_channels": 32, "num_res_blocks": [1, 1, 1, 1, 1]}
    with _smaller(module, "Encoder", **sizes), _smaller(module, "Decoder", **sizes):
        return module.VideoVAE()


def _seedvr() -> nn.Module:
    module = _module("ldm.seedvr.vae")
    with patch.object(module, "BYTEDANCE_BLOCK_OUT_CHANNELS", (32, 32, 64, 64)):
        return module.VideoAutoencoderKLWrapper()


def _mage() -> nn.Module:
    module = _module("ldm.mage_flow.vae")
    encoder = _smaller(module, "DConvEncoder", hidden_size=64, num_blocks=2, head_size=64)
    sizes = {"hidden_size": 64, "hidden_size_x": 16, "num_blocks": 4, "num_cond_blocks": 2}
    with encoder, _smaller(module, "DConvDenoiser", **sizes):
        return module.MageVAE()


def _minimax() -> nn.Module:
    module = _module("ldm.minimax.vae")
    with _smaller(module, "ViT3DDecoder", num_layers=2, heads=2):
        return module.MiniMaxH3VideoVAE(ch=32, ch_mult=(1, 1, 2, 2, 2, 2), num_res_blocks=1)


def _minimax_audio() -> nn.Module:
    model = _module("ldm.minimax.audio_vae").MiniMaxH3AudioVAE(encoder_dim=4, latent_dim=64, decoder_dim=256)
    return _filled(model, model, but="filter")


def _stable_audio_3(**more: Any) -> nn.Module:
    kind = _module("ldm.audio.vae_sa3").SA3AudioVAE
    return kind(channels=32, transformer_depths=2, chunk_size=32, chunk_midpoint_shift=True, **more)


def _ace() -> nn.Module:
    coder: dict[str, Any] = {"attention_head_dim": 16}
    for half in ("encoder", "decoder"):
        coder |= {f"{half}_block_out_channels": (32, 32, 64, 64), f"{half}_layers_per_block": (1, 1, 1, 1)}
    vocoder = {"depths": [1, 1, 1, 1], "dims": [32, 32, 64, 64], "num_mels": 64, "upsample_initial_channel": 256}
    kind = _module("ldm.ace.vae.music_dcae_pipeline").MusicDCAE
    return kind(source_sample_rate=44100, dcae_config=coder, vocoder_config=vocoder)


def _mmaudio() -> nn.Module:
    module = _module("ldm.mmaudio.vae.autoencoder")
    whole = module.BigVGANVocoder
    small = partial(_module("ldm.mmaudio.vae.vae").VAE, data_dim=80, embed_dim=20, hidden_dim=32)
    with patch.multiple(
        module, VAE_16k=small, BigVGANVocoder=lambda config: whole({**config, "upsample_initial_channel": 128})
    ):
        model = module.AudioAutoencoder(mode="16k")
    return _filled(model, model.mel_converter, but="window")


def _ltx_audio() -> nn.Module:
    coder: dict[str, Any] = {
        "double_z": True,
        "mel_bins": 64,
        "z_channels": 8,
        "resolution": 64,
        "in_channels": 2,
        "out_ch": 2,
    }
    coder |= {"ch": 32, "ch_mult": [1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    coder |= {"mid_block_add_attention": False, "norm_type": "pixel", "causality_axis": "height"}
    config = {"audio_vae": {"model": {"params": {"ddconfig": coder}}}, "vocoder": {"upsample_initial_channel": 64}}
    model = _module("ldm.lightricks.vae.audio_vae").AudioVAE(metadata={"config": config})
    return _filled(model, model.autoencoder.per_channel_statistics)


def _shape() -> nn.Module:
    sizes = {"num_latents": 16, "embed_dim": 16, "width": 64, "heads": 4, "pc_size": 320}
    return _module("ldm.hunyuan3d.vae").ShapeVAE(num_decoder_layers=2, num_encoder_layers=1, **sizes)


def _smaller(module: Any, name: str, **sizes: Any) -> Any:
    """While it is entered, what the module makes of that class is of these sizes."""
    whole = getattr(module, name)
    return patch.object(module, name, lambda *args, **given: whole(*args, **{**given, **sizes}))


def _filled(model: nn.Module, within: nn.Module, but: str | None = None) -> nn.Module:
    """The model, with numbers in the buffers that a checkpoint would have filled: all in there but those named so."""
    for name, buffer in within.named_buffers():
        if buffer.is_floating_point() and (but is None or but not in name):
            buffer.copy_(torch.linspace(0.5, 1.5, buffer.numel()).view(buffer.shape))
    return model


# Two at once: of one, torch takes another convolution for small sizes, which costs a graph more.
IMAGE = ((2, 4, 8, 8), (2, 4, 16, 20), (2, 4, 12, 8))
PIXELS = ((2, 3, 32, 32), (2, 3, 64, 80), (2, 3, 48, 32))
VIDEO = ((2, 16, 3, 4, 4), (2, 16, 5, 6, 8), (2, 16, 3, 6, 4))
FRAMES = ((2, 3, 9, 32, 32), (2, 3, 17, 48, 64), (2, 3, 9, 48, 32))


def _channels(shapes: tuple[Shape, ...], channels: int) -> tuple[Shape, ...]:
    return tuple((shape[0], channels, *shape[2:]) for shape in shapes)


VAES: dict[str, Vae] = {
    "SD": Vae(lambda: autoencoder.AutoencoderKL(ddconfig=kl_config(), embed_dim=4), IMAGE, PIXELS),
    "Flux": Vae(lambda: _engine(f"{_UNET}.Encoder", f"{_UNET}.Decoder", kl_config()), IMAGE, PIXELS),
    "Flux 2": Vae(
        lambda: autoencoder.AutoencoderKL(ddconfig=kl_config(batch_norm_latent=True), embed_dim=4),
        _channels(IMAGE, 16),
        PIXELS,
    ),
    "SVD": Vae(_svd, ((3, 4, 8, 8), (5, 4, 12, 16), (3, 4, 12, 8))),
    "TAESD": Vae(lambda: _module("taesd.taesd").TAESD(latent_channels=4), IMAGE, PIXELS),
    "Cascade A": Vae(lambda: _module("ldm.cascade.stage_a").StageA(bottleneck_blocks=3, c_hidden=64), IMAGE, PIXELS),
    "Cascade C": Vae(lambda: _module("ldm.cascade.stage_c_coder").StageC_coder(), _channels(IMAGE, 16), PIXELS),
    "Hunyuan Image": Vae(_hunyuan_image, _channels(IMAGE, 16), PIXELS),
    "Hunyuan Image refiner": Vae(lambda: _hunyuan_refiner(False), VIDEO[:1], ((1, 3, 1, 32, 32),)),
    "Hunyuan Video": Vae(
        lambda: autoencoder.AutoencoderKL(
            ddconfig=kl_config(conv3d=True, time_compress=4, z_channels=16), embed_dim=16
        ),
        VIDEO,
        FRAMES,
    ),
    "Hunyuan Video 1.5": Vae(lambda: _hunyuan_refiner(True), VIDEO, FRAMES),
    "Wan 2.1": Vae(lambda: _wan("vae"), VIDEO, FRAMES),
    "Wan 2.1 picture": Vae(
        lambda: _wan("vae"), ((1, 16, 1, 4, 4), (1, 16, 1, 6, 8), (1, 16, 1, 6, 4)), ((1, 3, 1, 32, 32),)
    ),
    "Wan 2.2": Vae(lambda: _wan("vae2_2", dec_dim=16), VIDEO, FRAMES),
    "LTX": Vae(_ltx, _channels(VIDEO, 128), FRAMES),
    "CogVideoX": Vae(_cog, VIDEO, FRAMES),
    "Cosmos": Vae(_cosmos, VIDEO, FRAMES),
    "TAEHV": Vae(lambda: _module("taesd.taehv").TAEHV(latent_channels=16, latent_format=None), VIDEO, FRAMES),
    "Pixel space": Vae(lambda: _module("pixel_space_convert").PixelspaceConversionVAE(), _channels(IMAGE, 3), PIXELS),
    "Stable Audio": Vae(
        lambda: _module("ldm.audio.autoencoder").AudioOobleckVAE(), ((1, 64, 4), (1, 64, 9), (1, 64, 6))
    ),
    "Mochi": Vae(_mochi, _channels(VIDEO, 12), FRAMES),
    "SeedVR2": Vae(_seedvr, VIDEO, FRAMES),
    "Mage-Flow": Vae(_mage, _channels(IMAGE, 128), PIXELS),
    "MiniMax H3": Vae(_minimax, _channels(VIDEO, 24), FRAMES),
    "MiniMax H3 audio": Vae(
        _minimax_audio, ((1, 32, 2, 4), (1, 32, 2, 9), (1, 32, 2, 6)), ((1, 2, 3200), (1, 2, 7200), (1, 2, 4800))
    ),
    "Stable Audio 3": Vae(
        _stable_audio_3, ((1, 256, 4), (1, 256, 9), (1, 256, 6)), ((1, 2, 8192), (1, 2, 32768), (1, 2, 16384))
    ),
    "ACE-Step": Vae(_ace, ((1, 8, 16, 4), (1, 8, 16, 9), (1, 8, 16, 6)), ((1, 2, 16384), (1, 2, 32768), (1, 2, 24576))),
    "MMAudio": Vae(_mmaudio, ((1, 20, 4), (1, 20, 9), (1, 20, 6)), ((1, 2, 16384), (1, 2, 32768), (1, 2, 24576))),
    "LTX audio": Vae(
        _ltx_audio, ((1, 8, 4, 16), (1, 8, 9, 16), (1, 8, 6, 16)), ((1, 2, 16384), (1, 2, 32768), (1, 2, 24576))
    ),
    "Hunyuan 3D": Vae(
        _shape, ((1, 16, 16), (1, 16, 40), (1, 16, 24)), options={"octree_resolution": 8, "enable_pbar": False}
    ),
}

#: Classes that ComfyUI's VAE can hold and that are not built here, and why.
NOT_BUILT = {
    "comfy.ldm.triposplat.vae.OctreeGaussianDecoder": "TripoSplat Decode calls it itself: VAE.decode and VAE.encode "
    "raise, so there is no call that OneDiff Compile VAE could compile",
}
