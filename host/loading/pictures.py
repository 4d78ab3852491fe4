"""A picture for an IP-Adapter, out of what other nodes give."""

from __future__ import annotations

from typing import Any

import torch

from ...processors.loaded.file import LoadedFile
from ...processors.loaded.image_projections import ImageProjection
from ...processors.loaded.ip_adapter import Picture
from ...processors.loaded.unusable import Unusable
from ..known_values import shown

#: CLIP vision models by what they give, and its channels.
_ENCODERS = {
    ("image_embeds", 768): "ViT-L",
    ("image_embeds", 1024): "ViT-H",
    ("image_embeds", 1280): "ViT-bigG",
    ("penultimate_hidden_states", 1024): "ViT-L",
    ("penultimate_hidden_states", 1280): "ViT-H",
    ("penultimate_hidden_states", 1664): "ViT-bigG",
}


def picture(file: Any, given: Any, negative: Any, weight: float, start: float, end: float, mask: Any) -> Picture:
    """The picture with its inputs looked through.

    Raises:
        Unusable: when the file is no IP-Adapter, or the picture was encoded by another CLIP vision model.
    """
    if not isinstance(file, LoadedFile):
        raise Unusable("processor", f"is {shown(file)}", "connect Load Attention Processor")
    if file.weights is None:
        raise Unusable(file.shown, "is no IP-Adapter and takes no picture", "connect it to Patch Attention Processors")
    project = file.weights.image_proj
    cond = _seen(file, project, "clip_vision_output", given)
    uncond = None if negative is None or project.zeros_are_empty else _seen(file, project, "negative", negative)[:1]
    if uncond is not None and uncond.shape[1:] != cond.shape[1:]:
        raise Unusable(
            "negative", "was encoded otherwise than the picture", "encode both with the same CLIP Vision Encode"
        )
    return Picture(cond, uncond, weight, start, end, None if mask is None else _mask(mask))


def _seen(file: LoadedFile, project: ImageProjection, name: str, given: Any) -> torch.Tensor:
    """What the file is given of a picture: (pictures, channels), or (pictures, hidden states, channels)."""
    tensor = getattr(given, project.takes, None)
    dimensions = 2 if project.zeros_are_empty else 3
    if not isinstance(tensor, torch.Tensor) or tensor.ndim != dimensions or 0 in tensor.shape:
        raise Unusable(name, f"is {shown(given)} without {project.takes}", "connect CLIP Vision Encode")
    if tensor.shape[-1] != project.width:
        known = _ENCODERS.get((project.takes, project.width))
        what = f"has {tensor.shape[-1]} channels, and {file.shown} needs {project.width}"
        fix = f"load {known} in Load CLIP Vision" if known else "load the CLIP vision model that the file was made with"
        raise Unusable(name, what, fix)
    if not bool(torch.isfinite(tensor).all()):
        raise Unusable(name, "holds NaN or infinite numbers", "encode the picture in float32")
    return tensor.detach()


def _mask(mask: Any) -> torch.Tensor:
    """(masks, height, width), 0 to 1."""
    if not isinstance(mask, torch.Tensor) or mask.ndim not in (2, 3, 4) or 0 in mask.shape:
        raise Unusable("mask", f"is {shown(mask)}", "connect a mask, or nothing")
    return mask.detach().float().reshape(-1, *mask.shape[-2:]).nan_to_num().clamp(0, 1)
