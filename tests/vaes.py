"""Small VAEs of the host's own classes, with random weights, in the host's own VAE object."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import comfy.sd
import torch

CPU = torch.device("cpu")

KL = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2, 2]}
KL |= {"num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}


def vae_of(model: torch.nn.Module | None = None, seed: int = 0, **attributes: Any) -> Any:
    """A VAE around a model, by default a small one of Stable Diffusion's kind (8 latent pixels give 32)."""
    vae = comfy.sd.VAE(sd={"any": None}, config={"params": {"ddconfig": KL, "embed_dim": 4}}, device=CPU, dtype=torch.float32)
    vae.downscale_ratio = vae.upscale_ratio = 4
    return vae if model is None else around(vae, model, seed, **attributes)
