"""A small VAE of each class that ComfyUI loads, of the host's own code, with random weights.

Audio and shapes are here too: ComfyUI hands them round as VAEs. What has no size of its own to choose is as large as
the original.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.ldm.models.autoencoder as autoencoder
import comfy.model_patcher
import comfy.sd
import sessions
import torch
from onediff_pack.compilers import CallSession, Host, Settings
from onediff_pack.compilers.blocks.shared_graph import GraphCache
from onediff_pack.compilers.choice.prove import Proofs
from onediff_pack.compilers.measuring.gains import Gains
from onediff_pack.host.copies.vae import with_session
from onediff_pack.patching.ending.stopping import Stopped
from onediff_pack.status import Record
from torch import nn

CPU = torch.device("cpu")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Vae:
    """How one class is made, and sizes of what it decodes and encodes: the second is the largest."""

    make: Callable[[], nn.Module]
    latents: tuple[Shape, ...]
    pixels: tuple[Shape, ...] = ()

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


def _kl(**more: Any) -> dict[str, Any]:
    given = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32}
    return {**given, "ch_mult": [1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0, **more}


REGULARIZER = {"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"}


def _engine(encoder: str, decoder: str, config: dict[str, Any], **more: Any) -> nn.Module:
    return autoencoder.AutoencodingEngine(
        regularizer_config=REGULARIZER,
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
    return _engine("hunyuan_video.vae_refiner.Encoder", "hunyuan_video.vae_refiner.Decoder", config)


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
    for buffer in model.per_channel_statistics.buffers():  # nothing in them yet
        buffer.fill_(1.0)
    return model


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
        _kl(),
        video_kernel_size=[3, 1, 1],
        alpha=0.0,
    )


# Two at once: of one, torch takes another convolution for small sizes, which costs a graph more.
IMAGE = ((2, 4, 8, 8), (2, 4, 16, 20), (2, 4, 12, 8))
PIXELS = ((2, 3, 32, 32), (2, 3, 64, 80), (2, 3, 48, 32))
VIDEO = ((2, 16, 3, 4, 4), (2, 16, 5, 6, 8), (2, 16, 3, 6, 4))
FRAMES = ((2, 3, 9, 32, 32), (2, 3, 17, 48, 64), (2, 3, 9, 48, 32))


def _channels(shapes: tuple[Shape, ...], channels: int) -> tuple[Shape, ...]:
    return tuple((shape[0], channels, *shape[2:]) for shape in shapes)


VAES: dict[str, Vae] = {
    "SD": Vae(lambda: autoencoder.AutoencoderKL(ddconfig=_kl(), embed_dim=4), IMAGE, PIXELS),
    "Flux": Vae(lambda: _engine(f"{_UNET}.Encoder", f"{_UNET}.Decoder", _kl()), IMAGE, PIXELS),
    "Flux 2": Vae(
        lambda: autoencoder.AutoencoderKL(ddconfig=_kl(batch_norm_latent=True), embed_dim=4),
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
        lambda: autoencoder.AutoencoderKL(ddconfig=_kl(conv3d=True, time_compress=4, z_channels=16), embed_dim=16),
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
}


def numbers(shape: Shape, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def session_on(model: nn.Module | None, **settings: Any) -> tuple[CallSession, Record]:
    """A session as OneDiff Compile VAE makes one, with what ``sessions.using`` knows; and its record. Without
    ``plans`` everything is compiled: what stands in for a compiler gains nothing."""
    proofs, graphs, gains = sessions._in_use[-1]
    return _session(model, proofs, graphs, gains, settings)


def _session(
    model: nn.Module | None, proofs: Proofs, graphs: GraphCache, gains: Gains, settings: dict[str, Any]
) -> tuple[CallSession, Record]:
    plans = settings.pop("plans", False)
    check_interrupt = settings.pop("check_interrupt", lambda: None)
    host = Host(check_interrupt, "test", interruption=settings.pop("interruption", Stopped))
    record = Record("workflow", "7")
    chosen = Settings(**{"backend": next(iter(proofs.backends)), "keep_faster": plans, **settings})
    session = CallSession(chosen, record, host, CPU, proofs=proofs, graphs=graphs, gains=gains)
    session.title = "OneDiff Compile VAE"
    if model is not None:
        with torch.inference_mode():
            session.prepare(model, (), torch.float32)
    return session, record


@contextmanager
def used(session: CallSession, model: nn.Module) -> Iterator[Callable[..., torch.Tensor]]:
    """``run(method, tensor)`` calls a method of the model through the session, as a VAE does."""
    with torch.inference_mode(), session.using(model, torch.float32):
        yield lambda name, given: session.call(name, getattr(model, name), ((given,), {}))


def small_vae(seed: int = 0) -> Any:
    """ComfyUI's VAE object around a small model of Stable Diffusion's kind: 4 pixels to a latent one."""
    return _vae_of("SD", seed, downscale_ratio=4, upscale_ratio=4)


def wan_vae(seed: int = 0) -> Any:
    """The same around a small Wan 2.1, for video."""
    up, down = (lambda a: max(0, a * 4 - 3), 8, 8), (lambda a: max(0, (a + 3) // 4), 8, 8)
    formulas = {"upscale_index_formula": (4, 8, 8), "downscale_index_formula": (4, 8, 8)}
    sizes = {"upscale_ratio": up, "downscale_ratio": down, "latent_dim": 3, "latent_channels": 16}
    return _vae_of("Wan 2.1", seed, **sizes, **formulas)


@torch.inference_mode()
def _vae_of(kind: str, seed: int, **attributes: Any) -> Any:
    """Made in inference mode, as ComfyUI loads it: Dynamo tells such weights apart."""
    model, params = VAES[kind].model(seed), {"ddconfig": _kl(), "embed_dim": 4}
    logging.disable(logging.WARNING)
    try:
        vae = comfy.sd.VAE(sd={}, config={"params": params}, device=CPU, dtype=torch.float32)
    finally:
        logging.disable(logging.NOTSET)
    vae.first_stage_model = model
    vae.patcher = comfy.model_patcher.ModelPatcher(model, CPU, CPU)
    vae.memory_used_decode = vae.memory_used_encode = lambda shape, dtype: 2**20
    for name, value in attributes.items():
        setattr(vae, name, value)
    return vae


__all__ = ["VAES", "Vae", "numbers", "session_on", "small_vae", "used", "wan_vae", "with_session"]
