"""Old nodes that compare: the weights of two models, and pictures."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import ui as host_ui

from ...host.prompt_ends import CANCEL
from ...host.server import show_now
from .given import Given

#: Weights that differ before Model Weight Comparator ends the run.
MOST_DIFFERENT = 10

#: Names that are said.
_NAMED = 3


def compare_models(given: Given) -> tuple:
    """Model Weight Comparator."""
    if not given.on("check"):
        given.say("not compared: check is “disable”")
        return ()
    one, other = given.model("torch_model"), given.model("oneflow_model")
    names = different_weights(one, other)
    if len(names) >= MOST_DIFFERENT:
        given.end(
            "oneflow_model",
            f"{len(names)} weights differ, {', '.join(names[:_NAMED])} first",
            "Set check to “disable” to go on anyway.",
        )
    given.say(f"{len(names)} weights differ: {', '.join(names[:_NAMED])}" if names else "all weights are equal")
    return ()


def different_weights(one: Any, other: Any) -> list[str]:
    """Names of weights that are not equal, or that only one of two MODELs has; LoRAs on them count."""
    first, second = (model.model.state_dict() for model in (one, other))
    names = sorted(first.keys() ^ second.keys())
    for name in sorted(first.keys() & second.keys()):
        CANCEL.check()
        a, b = first[name], second[name]
        same = a is b or (a.shape == b.shape and torch.equal(a.detach().cpu().float(), b.detach().cpu().float()))
        if not same or _patches(one, name) != _patches(other, name):
            names.append(name)
    return names


def _patches(model: Any, name: str) -> list[list[Any]]:
    """What LoRAs do to a weight: numbers as they are, everything else by identity."""
    found = getattr(model, "patches", {}).get(name, ())
    return [[part if isinstance(part, int | float) else id(part) for part in patch] for patch in found]


def show_difference(given: Given) -> tuple:
    """Image Distinction Scanner: shows both and their difference, and ends the run where they are not alike."""
    one, other = (given.inputs.get(name) for name in ("images1", "images2"))
    for name, value in (("images1", one), ("images2", other)):
        if not isinstance(value, torch.Tensor) or value.ndim != 4:
            given.end(name, f"{name} is not connected", "Connect pictures.")
    assert isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    if one.shape != other.shape:
        alike, said = False, f"the sizes differ: {tuple(one.shape)} and {tuple(other.shape)}"
        pictures = [one, other]
    else:
        alike, said = _alike(given, one, other)
        pictures = [one, other, (one - other).abs()]
    previews = [host_ui.PreviewImage(picture, cls=given.node).as_dict() for picture in pictures]
    given.shown = {**previews[0], "images": [image for preview in previews for image in preview["images"]]}
    if not alike and given.on("raise_if_diff"):
        show_now(given.node.hidden, given.shown)  # ComfyUI shows nothing of a node that ends the run
        given.end("images2", said, "Set raise_if_diff to “disable” to go on anyway.")
    given.say(said)
    return ()


def _alike(given: Given, one: torch.Tensor, other: torch.Tensor) -> tuple[bool, str]:
    """By ``ssim_threshold``, or by ``rtol`` and ``atol`` where only those are given, as in files before version 1."""
    if "ssim_threshold" not in given and ("rtol" in given or "atol" in given):
        rtol, atol = (_number(given, name, 1e-4, 1e6) for name in ("rtol", "atol"))
        most = float((one - other).abs().max())
        return torch.allclose(one, other, rtol=rtol, atol=atol), f"largest difference: {most:.4g}"
    least = _number(given, "ssim_threshold", 0.9, 1.0)
    value = ssim(one, other)
    return value >= least - 1e-6, f"SSIM: {value:.4f} (at least {least:g} is asked for)"


def _number(given: Given, name: str, default: float, most: float) -> float:
    """A number that was saved as text."""
    with contextlib.suppress(TypeError, ValueError):
        given.inputs[name] = float(given.inputs.get(name, default))
    return given.number(name, default, 0.0, most)


def ssim(one: torch.Tensor, other: torch.Tensor) -> float:
    """Structural similarity of pictures (batch, height, width, channels), values 0 to 1: mean over windows of 7 × 7,
    as in Wang et al., with sample covariances."""
    a, b = (picture.movedim(-1, 1).double() for picture in (one, other))
    size = min(7, *a.shape[-2:])
    count = size * size
    unbias = count / max(count - 1, 1)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(values, size, stride=1)

    ma, mb = mean(a), mean(b)
    va, vb = ((mean(x * x) - m * m) * unbias for x, m in ((a, ma), (b, mb)))
    cov = (mean(a * b) - ma * mb) * unbias
    c1, c2 = 0.01**2, 0.03**2
    similar = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return float(similar.mean())
