"""Rules on what will be asked of the compiler, looked at before it is asked.

The facts come in one plain object, ``Asked``, so the rules know neither ComfyUI nor a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from ..node_ids import COMPILE
from .finding import Finding
from .rule import Hit, Layer, Rule, Subject, apply, rule

#: Compute capability from which Triton, which Inductor writes GPU code with, works; has bfloat16; has float8 e4m3.
TRITON, BFLOAT16, FLOAT8 = (7, 0), (8, 0), (8, 9)

#: Multiprocessors from which Inductor tries its own matrix multiplications (torch._inductor.utils.is_big_gpu).
AUTOTUNE_MULTIPROCESSORS = 68


@dataclass(frozen=True)
class Asked(Subject):
    """What the compile node was set to, and what it meets.

    ``module`` is the diffusion model. ``dtype`` is what it computes in, ``weight_dtypes`` the bytes of weights of each
    dtype. ``capability`` is an NVIDIA GPU's compute capability, ``multiprocessors`` its count, both None elsewhere.
    ``casts_weights`` tells that layers convert their weights while they run, ``offloaded_bytes`` how much of the
    weights will not fit on the device, ``moves_weights`` that they are brought there layer by layer. ``regions`` counts
    the parts that the scope would compile. ``compiles_for`` are the types of device of the backend that was asked for,
    None for ``auto`` and for one that is not known; ``triton`` tells that the backend writes GPU code with Triton.
    """

    backend: str
    scope: str
    effort: str
    device: torch.device
    dtype: torch.dtype
    regions: int
    weight_dtypes: Mapping[torch.dtype, int] = field(default_factory=dict)
    capability: tuple[int, int] | None = None
    multiprocessors: int | None = None
    casts_weights: bool = False
    offloaded_bytes: int = 0
    moves_weights: bool = False
    compiles_for: tuple[str, ...] | None = None
    triton: bool = True

    @property
    def weight_bytes(self) -> int:
        return sum(self.weight_dtypes.values())

    @property
    def uses_triton(self) -> bool:
        """Whether code for this device goes through Triton."""
        return self.triton and self.device.type == "cuda" and self.capability is not None


def weight_bytes(module: nn.Module) -> dict[torch.dtype, int]:
    """Bytes of a model's parameters by dtype."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in module.parameters():
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel() * parameter.element_size()
    return sizes


def check_options(asked: Asked) -> tuple[Finding, ...]:
    """What the rules find on one compile node."""
    return tuple(apply("options", asked))


class Option(Rule):
    """A rule on one input of the node, or on what the node meets; ``input`` says which, and is the finding's path."""

    layer: ClassVar[Layer] = "options"
    subject: ClassVar[type[Subject]] = Asked
    input: ClassVar[str]

    def values(self, asked: Asked) -> Mapping[str, object] | None:
        """What fills the texts, None when there is nothing to say."""
        raise NotImplementedError

    def hits(self, subject: Asked) -> Iterator[Hit]:
        values = self.values(subject)
        if values is not None:
            yield Hit(values, where="input")

    def findings(self, subject: Subject) -> Iterator[Finding]:
        for finding in super().findings(subject):
            yield Finding(**{**vars(finding), "path": self.input, "cls": COMPILE})


@rule
class BackendNotForDevice(Option):
    input = "backend"
    severity = "warning"
    what = "{backend} does not compile for {device}"
    why = "{backend} compiles for {devices} only; another backend is used instead, or none."
    fix = "Set backend to “auto”."

    def values(self, asked: Asked) -> Mapping[str, object] | None:
        if asked.compiles_for is None or asked.device.type in asked.compiles_for:
            return None
        devices = " and ".join(asked.compiles_for)
        return {"backend": asked.backend, "device": asked.device.type, "devices": devices}


@rule
class GpuTooOldForTriton(Option):
    input = "backend"
    what = "this GPU is too old for inductor: compute capability {has}, it needs {needs}"
    why = "Inductor writes GPU code with Triton, which does not work here; the model runs uncompiled."
    fix = "Remove the node, or use an NVIDIA GPU from 2017 or later."

    def values(self, asked: Asked) -> Mapping[str, object] | None:
        return _lacks(asked, TRITON)


@rule
class Bfloat16OnOldGpu(Option):
    input = "weights"
    what = "the model computes in bfloat16, which this GPU does not have: compute capability {has}, it needs {needs}"
    why = "Inductor compiles nothing that holds bfloat16 for such a GPU; the model runs uncompiled."
    fix = "Start ComfyUI with --fp16-unet: this GPU has float16."

    def values(self, asked: Asked) -> Mapping[str, object] | None:
        return _lacks(asked, BFLOAT16) if asked.dtype is torch.bfloat16 else None


@rule
class Float8OnOldGpu(Option):
    """Triton converts float8 e5m2 on every GPU, e4m3 from compute capability 8.9 on."""

    input = "weights"
    what = "the weights are {dtype}, which this GPU does not have: compute capability {has}, it needs {needs}"
    why = "Blocks convert these weights inside compiled code, which fails to compile on this GPU; they run uncompiled."
    fix = (
        "Set weight_dtype to “default” or “fp8_e5m2” in the node that loads the model, from a file that is not float8."
    )

    def values(self, asked: Asked) -> Mapping[str, object] | None:
        dtype = next((dtype for dtype in asked.weight_dtypes if "float8_e4m3" in str(dtype)), None)
        lacks = _lacks(asked, FLOAT8)
        return None if dtype is None or lacks is None else {**lacks, "dtype": _name(dtype)}


@rule
class MaxSpeedOnSmallGpu(Option):
    input = "effort"
    severity = "note"
    what = "“max speed” tries less on this GPU: {has} multiprocessors, the compiler wants {needs}"
    why = "Inductor tries its own matrix multiplications on large GPUs only; the other trials still take their time."
    fix = "“fast start” is likely as fast here and compiles sooner."

    def values(self, asked: Asked) -> Mapping[str, object] | None:
        has = asked.multiprocessors
        if asked.effort != "max speed" or not asked.uses_triton or has is None or has >= AUTOTUNE_MULTIPROCESSORS:
            return None
        return {"has": has, "needs": AUTOTUNE_MULTIPROCESSORS}


@rule
class WeightsAreCast(Option):
    input = "weights"
    severity = "note"
    what = "{megabytes} MB of weights are {stored} and computed in {dtype}"
    why = "Each layer converts its weights in every step, compiled or not; that is part of the compiled code."
    fix = "If memory allows, set weight_dtype to “default” in the node that loads the model, or load a {dtype} file."

    def values(self, asked: Asked) -> Mapping[str, object] | None:
        stored = {dtype: size for dtype, size in asked.weight_dtypes.items() if dtype.is_floating_point}
        stored.pop(asked.dtype, None)
        size = sum(stored.values())
        if not asked.casts_weights or size < asked.weight_bytes / 2 or not size:
            return None
        names = ", ".join(map(_name, stored))
        return {"megabytes": _megabytes(size), "stored": names, "dtype": _name(asked.dtype)}


@rule
class WeightsDoNotFit(Option):
    input = "weights"
    severity = "warning"
    what = "about {out} MB of {all} MB of weights do not fit into this device's memory"
    why = (
        "They are moved to the device in every step, compiled or not. Blocks whose quantised weights are only partly "
        "loaded run uncompiled."
    )
    fix = "Use a smaller model or picture, or free memory; then steps are faster."

    def values(self, asked: Asked) -> Mapping[str, object] | None:
        if asked.offloaded_bytes <= 0:
            return None
        return {"out": _megabytes(asked.offloaded_bytes), "all": _megabytes(asked.weight_bytes)}


@rule
class WeightsMoveLayerByLayer(Option):
    input = "weights"
    severity = "note"
    what = "ComfyUI's dynamic VRAM brings the weights to the device layer by layer"
    why = "Blocks are compiled all the same: the weights of each are brought there before it runs."
    fix = "Nothing has to be done. If the model fits into memory, --disable-dynamic-vram may make steps faster."

    def values(self, asked: Asked) -> Mapping[str, object] | None:
        return {} if asked.moves_weights else None


@rule
class NothingInScope(Option):
    input = "scope"
    what = "scope “{scope}” finds nothing to compile in {model}"
    why = "{reason} The model runs uncompiled."
    fix = "{remedy}"

    def values(self, asked: Asked) -> Mapping[str, object] | None:
        if asked.regions:
            return None
        reason, remedy = "No part of it is a block that repeats or computes attention.", "Remove the node."
        if asked.scope == "attention":
            reason = "Its attention is not a module of its own with to_q, to_k, to_v and to_out."
            remedy = "Set scope to “blocks”."
        return {"scope": asked.scope, "model": type(asked.module).__name__, "reason": reason, "remedy": remedy}


def _lacks(asked: Asked, needs: tuple[int, int]) -> Mapping[str, object] | None:
    """The GPU's compute capability and the one that Triton needs, None where the GPU has it or is none of NVIDIA's."""
    if not asked.uses_triton or asked.capability is None or asked.capability >= needs:
        return None
    return {"has": "{}.{}".format(*asked.capability), "needs": "{}.{}".format(*needs)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _megabytes(size: int) -> int:
    return max(1, round(size / 2**20))
