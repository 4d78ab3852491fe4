"""A small VAE of each class that ComfyUI loads, with random weights, and sessions on it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_patcher
import comfy.sd
import sessions
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from onediff_pack.compilers import CallSession, Host, Settings
from onediff_pack.compilers.blocks.shared_graph import GraphCache
from onediff_pack.compilers.choice.prove import Proofs
from onediff_pack.compilers.measuring.gains import Gains
from onediff_pack.host.copies.vae import with_session
from onediff_pack.patching.ending.stopping import Stopped
from onediff_pack.status import Record
from torch import nn
from vae_kinds import VAES, Shape, Vae, kl_config

CPU = torch.device("cpu")


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
    """``run(method, tensor, **options)`` calls a method of the model through the session, as a VAE does."""
    with torch.inference_mode(), session.using(model, torch.float32):
        yield lambda name, given, **options: session.call(name, getattr(model, name), ((given,), options))


def small_vae(seed: int = 0) -> Any:
    """ComfyUI's VAE object around a small model of Stable Diffusion's kind: 4 pixels to a latent one. Of one width, so
    that there are fewer kinds of blocks to trace than in that of ``VAES``."""
    narrow = replace(VAES["SD"], make=lambda: AutoencoderKL(ddconfig=kl_config(ch_mult=[1, 1, 1]), embed_dim=4))
    return _vae_of(narrow, seed, downscale_ratio=4, upscale_ratio=4)


def wan_vae(seed: int = 0) -> Any:
    """The same around a small Wan 2.1, for video."""
    up, down = (lambda a: max(0, a * 4 - 3), 8, 8), (lambda a: max(0, (a + 3) // 4), 8, 8)
    formulas = {"upscale_index_formula": (4, 8, 8), "downscale_index_formula": (4, 8, 8)}
    sizes = {"upscale_ratio": up, "downscale_ratio": down, "latent_dim": 3, "latent_channels": 16}
    return _vae_of(VAES["Wan 2.1"], seed, **sizes, **formulas)


@torch.inference_mode()
def _vae_of(kind: Vae, seed: int, **attributes: Any) -> Any:
    """Made in inference mode, as ComfyUI loads it: Dynamo tells such weights apart."""
    model, params = kind.model(seed), {"ddconfig": kl_config(), "embed_dim": 4}
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


__all__ = ["VAES", "Shape", "Vae", "numbers", "session_on", "small_vae", "used", "wan_vae", "with_session"]
