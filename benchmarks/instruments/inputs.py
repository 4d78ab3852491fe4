"""What goes into the sampler and what becomes of its result, without text encoders and decoders."""

from __future__ import annotations

import torch

#: Latents of the uncompiled way, by what was sampled.
KEPT: dict[str, torch.Tensor] = {}


class Conditioning:
    """A prompt of random numbers, (1, tokens, width), and a pooled one, (1, pooled)."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {n: ("INT",) for n in ("tokens", "width", "pooled", "seed")}})
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"

    def make(self, tokens: int, width: int, pooled: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        prompt = torch.randn(1, tokens, width, generator=generator)
        return ([[prompt, {"pooled_output": torch.randn(1, pooled, generator=generator)}]],)


class Keep:
    """Keeps the latent of the uncompiled way by ``key``, and says how far those of the other ways are from it."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"latent": ("LATENT",), "key": ("STRING",), "way": ("STRING",)}})
    RETURN_TYPES = ()
    FUNCTION = "keep"
    OUTPUT_NODE = True

    def keep(self, latent, key: str, way: str):
        samples = latent["samples"].float().cpu()
        if way == "uncompiled":
            KEPT[key] = samples.clone()
        reference = KEPT.get(key)
        found = [] if reference is None else [relative(samples, reference)]
        return {"ui": {"difference": found}}


def relative(result: torch.Tensor, reference: torch.Tensor) -> float:
    """The norm of the difference, relative to the reference; infinite when a number is not finite."""
    value = ((result - reference).norm() / reference.norm()).item()
    return value if value == value else float("inf")
