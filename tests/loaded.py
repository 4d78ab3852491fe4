"""Files with processors for small models: IP-Adapters as they are published, with random weights, and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

#: Channels of a picture's embedding, of its hidden states, and how many of those there are.
EMBED, HIDDEN, STATES = 40, 56, 9


def standard(context: int, tokens: int = 4) -> dict[str, torch.Tensor]:
    return {
        "image_proj.proj.weight": torch.randn(tokens * context, EMBED) * 0.1,
        "image_proj.proj.bias": torch.randn(tokens * context) * 0.1,
        **_norm("image_proj.norm", context),
    }


def plus(context: int, tokens: int = 5, inner: int = 24, heads: int = 2, depth: int = 2) -> dict[str, torch.Tensor]:
    found = {
        "image_proj.latents": torch.randn(1, tokens, inner),
        **_linear("image_proj.proj_in", HIDDEN, inner),
        **_linear("image_proj.proj_out", inner, context),
        **_norm("image_proj.norm_out", context),
    }
    for n in range(depth):
        at = f"image_proj.layers.{n}"
        found |= {**_norm(f"{at}.0.norm1", inner), **_norm(f"{at}.0.norm2", inner), **_norm(f"{at}.1.0", inner)}
        found |= {
            f"{at}.0.to_q.weight": torch.randn(heads * 64, inner) * 0.1,
            f"{at}.0.to_kv.weight": torch.randn(2 * heads * 64, inner) * 0.1,
            f"{at}.0.to_out.weight": torch.randn(inner, heads * 64) * 0.1,
            f"{at}.1.1.weight": torch.randn(4 * inner, inner) * 0.1,
            f"{at}.1.3.weight": torch.randn(inner, 4 * inner) * 0.1,
        }
    return found


def full(context: int) -> dict[str, torch.Tensor]:
    return {
        **_linear("image_proj.proj.0", HIDDEN, HIDDEN),
        **_linear("image_proj.proj.2", HIDDEN, context),
        **_norm("image_proj.proj.3", context),
    }


def at_sites(widths: list[int], context: int) -> dict[str, torch.Tensor]:
    """Keys and values for cross-attentions of these widths, in diffusers' order: numbered 1, 3, 5 and so on."""
    return {
        f"ip_adapter.{2 * n + 1}.to_{which}_ip.weight": torch.randn(width, context) * 0.2
        for n, width in enumerate(widths)
        for which in "kv"
    }


def ip_adapter(model: Any, projection: dict[str, torch.Tensor], seed: int = 3) -> dict[str, torch.Tensor]:
    """The tensors of a file for a model in a ModelPatcher."""
    torch.manual_seed(seed)
    sites = cross(model)
    return {**projection, **at_sites([s.module.to_q.weight.shape[0] for s in sites], context_of(projection))}


def context_of(projection: dict[str, torch.Tensor]) -> int:
    name = next(n for n in ("image_proj.norm.weight", "image_proj.norm_out.weight", "image_proj.proj.3.weight")
                if n in projection)  # fmt: skip
    return len(projection[name])


def cross(model: Any) -> list[Any]:
    from onediff_pack.processors import find_sites
    from onediff_pack.processors.loaded.unet_names import cross_sites

    return cross_sites(model.model.diffusion_model, find_sites(model.model.diffusion_model))


def picture(seed: int = 5, pictures: int = 1) -> Any:
    """What CLIP Vision Encode gives."""
    from comfy.clip_vision import Output

    generator, given = torch.Generator().manual_seed(seed), Output()
    given["image_embeds"] = torch.randn(pictures, EMBED, generator=generator)
    given["penultimate_hidden_states"] = torch.randn(pictures, STATES, HIDDEN, generator=generator)
    return given


def saved(folder: Path, tensors: dict[str, torch.Tensor], name: str = "ip", metadata: Any = None) -> Path:
    from safetensors.torch import save_file

    path = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def opened(path: Path) -> Any:
    """A file as the node Load Attention Processor gives it."""
    import comfy.ops
    from onediff_pack.host.loading.files import patcher_of
    from onediff_pack.processors.loaded.file import load

    file = load(path, f"models/attention_processors/{path.name}", comfy.ops.manual_cast)
    return file if file.weights is None else file.managed(patcher_of(file.weights))


def with_picture(file: Any, given: Any = None, negative: Any = None, weight: float = 1.0, start: float = 0.0,
                 end: float = 1.0, mask: Any = None) -> Any:  # fmt: skip
    """A file as the node IP-Adapter Processor gives it."""
    from onediff_pack.host.loading.pictures import picture as looked_through

    given = picture() if given is None else given
    return file.with_picture(looked_through(file, given, negative, weight, start, end, mask))


def put(model: Any, file: Any, sites: str = "all") -> Any:
    """A clone of a ModelPatcher with a loaded file on it, as Patch Attention Processors puts it there."""
    from onediff_pack.host.loading.at_sites import loaded_at
    from onediff_pack.patching.wrappers import attach
    from onediff_pack.processors import find_sites, select_sites

    clone = model.clone()
    chosen = select_sites(find_sites(clone.model.diffusion_model), sites)
    found: list[Any] = []
    placed = loaded_at("OneDiffPatchAttention", file, chosen, clone, found)
    attach(clone, placed.patch(clone, placed.sites, placed.chosen.processor, lambda options: None))
    return clone


def _linear(name: str, given: int, wide: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.randn(wide, given) * 0.1, f"{name}.bias": torch.randn(wide) * 0.1}


def _norm(name: str, width: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.rand(width) + 0.5, f"{name}.bias": torch.randn(width) * 0.1}
