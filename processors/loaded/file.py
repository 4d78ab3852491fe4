"""What a safetensors file was found to be: a processor with its weights, ready to be put on a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from .ip_adapter import Picture, Weights, weights_of
from .reading import Header, cut, read_header, read_tensors
from .unusable import Unusable

Kind = Literal["ip-adapter", "custom-diffusion", "processor"]

#: Metadata that a file of this pack's own format has: its version, and the name of the processor as the node lists it.
FORMAT, PROCESSOR = "onediff.format", "onediff.processor"
VERSION = "1"

#: Stands for all places in the name of a tensor, and parts a place from the name of the weight: "*:scale".
EVERYWHERE, SEPARATOR = "*", ":"

#: Tensors that a file may have.
MOST_TENSORS = 20_000

_IP = re.compile(r"ip_adapter\.(\d{1,4})\.to_[kv]_ip\.weight")
_CUSTOM_DIFFUSION = re.compile(
    r"(?P<site>.+)\.processor\.(?P<weight>to_(?:k|v|q)_custom_diffusion\.weight|to_out_custom_diffusion\.0\.(?:weight|bias))"
)
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True, eq=False)
class LoadedFile:
    """``shown`` is the file's path below ComfyUI, ``name`` what the record calls it. ``weights`` are an IP-Adapter's,
    ``tensors`` those of the others: by the name of a site ("*" is all) and of the weight. ``patcher`` is what ComfyUI's
    memory management knows of them, ``processor`` the class that the metadata name, ``findings`` what the nodes on the
    way found."""

    shown: str
    name: str
    kind: Kind
    strength: float = 1.0
    processor: str = ""
    tensors: Mapping[str, Mapping[str, torch.Tensor]] | None = None
    weights: Weights | None = None
    patcher: Any = None
    pictures: tuple[Picture, ...] = ()
    findings: tuple[Any, ...] = ()

    def with_strength(self, strength: float, findings: Iterable[Any] = ()) -> LoadedFile:
        return replace(self, strength=strength, findings=(*self.findings, *findings))

    def managed(self, patcher: Any) -> LoadedFile:
        return replace(self, patcher=patcher)

    def with_picture(self, picture: Picture, findings: Iterable[Any] = ()) -> LoadedFile:
        return replace(self, pictures=(*self.pictures, picture), findings=(*self.findings, *findings))


def load(path: Path, shown: str, operations: Any, check: Callable[[], None] = lambda: None) -> LoadedFile:
    """What a file holds. ``operations`` makes layers; ``check`` may end it, as Cancel does.

    Raises:
        Unusable: for a file that is none of the formats, or a damaged one.
    """
    header = read_header(path, shown)
    if len(header.tensors) > MOST_TENSORS:
        raise Unusable(shown, f"holds {len(header.tensors):,} tensors", f"no processor has more than {MOST_TENSORS:,}")
    kind = _kind(header, shown)
    tensors = read_tensors(path, shown, [name for name, one in header.tensors.items() if 0 not in one.shape], check)
    known = LoadedFile(shown, path.stem, kind)
    if kind == "ip-adapter":
        return replace(known, weights=_ip_adapter(tensors, shown, operations))
    if kind == "custom-diffusion":
        return replace(known, tensors=_custom_diffusion(tensors, shown))
    return replace(known, processor=header.metadata[PROCESSOR], tensors=_by_site(tensors, shown))


def _kind(header: Header, shown: str) -> Kind:
    names = list(header.tensors)
    if FORMAT in header.metadata or PROCESSOR in header.metadata:
        _check_metadata(header.metadata, shown)
        return "processor"
    if any(name.startswith("ip_adapter.") for name in names):
        _check_ip_adapter(names, header, shown)
        return "ip-adapter"
    if any("custom_diffusion" in name for name in names):
        return "custom-diffusion"
    if any("lora_" in name or ".lora." in name or "lokr_" in name or "hada_" in name for name in names):
        raise Unusable(shown, "is a LoRA", "put it into models/loras and use Load LoRA")
    if any(name.startswith(("model.diffusion_model.", "diffusion_model.", "input_blocks.")) for name in names):
        raise Unusable(shown, "is a whole model", "put it into models/checkpoints and use Load Checkpoint")
    raise Unusable(
        shown,
        "names no processor in its metadata, and is neither an IP-Adapter nor a Custom Diffusion file",
        "write it as the help page of Load Attention Processor says",
    )


def _check_metadata(metadata: Mapping[str, str], shown: str) -> None:
    version, name = metadata.get(FORMAT), metadata.get(PROCESSOR, "")
    if version != VERSION:
        what = "says no version of its format" if version is None else f"is of version {cut(version)} of its format"
        raise Unusable(shown, f"{what}; this pack reads {VERSION}", "update the pack, or write the file anew")
    if not name or len(name) > 1_000 or not name.isprintable():
        raise Unusable(shown, "names no processor in its metadata", f"write it anew, with {PROCESSOR} in its metadata")


def _check_ip_adapter(names: list[str], header: Header, shown: str) -> None:
    if any(".lora" in name or "_lora" in name or "perceiver_resampler" in name for name in names):
        what = "is an IP-Adapter FaceID file, which needs a face's embedding instead of a picture"
        raise Unusable(shown, what, "use a standard, plus or full-face file")
    for name, one in header.tensors.items():
        if not (name.startswith("image_proj.") or _IP.fullmatch(name)):
            raise Unusable(shown, f"has a tensor {cut(name)}, which no IP-Adapter has", "download it again")
        if one.dtype not in _FLOATS or 0 in one.shape:
            raise Unusable(shown, f"has a tensor {cut(name)} of {one.dtype} {list(one.shape)}", "download it again")


def _ip_adapter(tensors: dict[str, torch.Tensor], shown: str, operations: Any) -> Weights:
    numbers = sorted({int(match[1]) for name in tensors if (match := _IP.fullmatch(name))})
    for number in numbers:
        for which in ("to_k_ip", "to_v_ip"):
            if f"ip_adapter.{number}.{which}.weight" not in tensors:
                raise Unusable(shown, f"lacks ip_adapter.{number}.{which}.weight", "download it again")
    if not any(name.startswith("image_proj.") for name in tensors):
        raise Unusable(shown, "lacks image_proj, which makes tokens of a picture", "download it again")
    weights = weights_of(tensors, operations)
    if weights is None:
        raise Unusable(
            shown,
            "is an IP-Adapter whose tensors do not fit together",
            "use the published standard, plus or full-face file of SD 1.5 or SDXL as it is",
        )
    return weights


def _custom_diffusion(tensors: dict[str, torch.Tensor], shown: str) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = _CUSTOM_DIFFUSION.fullmatch(name)
        if match is None:
            raise Unusable(shown, f"has a tensor {cut(name)}, which no Custom Diffusion file has", "save it again")
        found.setdefault(match["site"], {})[match["weight"]] = tensor
    return found


def _by_site(tensors: dict[str, torch.Tensor], shown: str) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        site, separator, weight = name.partition(SEPARATOR)
        if not (separator and site and weight):
            fix = f"name it “place{SEPARATOR}weight”, with {EVERYWHERE} for all places: {EVERYWHERE}{SEPARATOR}scale"
            raise Unusable(shown, f"has a tensor {cut(name)} that names no place", fix)
        found.setdefault(site, {})[weight] = tensor
    return found
