"""Reads a safetensors file, after its header was looked through: nothing in it is run, and nothing is unpickled."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .unusable import Unusable

#: Bytes of a header that is read. SDXL's IP-Adapter has 20 kB.
LARGEST_HEADER = 4 * 2**20

#: Letters of a tensor's name, and of a value of the metadata, that people are shown.
MOST_SHOWN = 60

#: Sizes that a tensor may have, and dimensions.
MOST_DIMENSIONS = 8

_AGAIN = "download or save it again"

#: Bytes of an element, by its name in the file.
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}

#: First bytes of files that people rename.
_OTHERS = (
    (b"PK\x03\x04", "a zip archive, as PyTorch's .pt and .bin files are"),
    (b"\x80", "a Python pickle, as old .pt, .bin and .ckpt files are"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<", "a web page: the download was not what it seemed"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
)


@dataclass(frozen=True)
class Entry:
    """One tensor as the header has it."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    metadata: dict[str, str]
    tensors: dict[str, Entry]


def cut(text: str) -> str:
    """A text from a file, on one line and never long."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text[: MOST_SHOWN + 1])
    return plain if len(plain) <= MOST_SHOWN else f"{plain[: MOST_SHOWN - 1]}…"


def read_header(path: Path, shown: str) -> Header:
    """The header of a file, looked through.

    Raises:
        Unusable: for what is no safetensors file, or a damaged one.
    """
    try:
        with _opened(path, shown) as file:
            return _header(file, os.fstat(file.fileno()).st_size, shown)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unusable(shown, f"cannot be read ({reason})", "check the file and the disk that it is on") from error


def read_tensors(
    path: Path, shown: str, names: Iterator[str] | list[str], check: Callable[[], None] = lambda: None
) -> dict[str, torch.Tensor]:
    """Tensors of a file whose header was read, in memory of their own. ``check`` is called before each, and may raise.

    Raises:
        Unusable: when it cannot be read after all, or holds numbers that are none.
    """
    from safetensors import safe_open  # with the first file, not when ComfyUI starts

    found: dict[str, torch.Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in names:
                check()
                found[name] = file.get_tensor(name).clone()
    except Exception as error:  # SafetensorError among others
        if type(error).__module__.partition(".")[0] not in ("safetensors", "safetensors_rust", "builtins"):
            raise
        raise Unusable(shown, f"is damaged ({cut(str(error))})", _AGAIN) from error
    for name, tensor in found.items():
        check()
        if tensor.is_floating_point() and not _finite(tensor):
            raise Unusable(shown, f"holds NaN or infinite numbers in {cut(name)}", "get a version of it that does not")
    return found


def _finite(tensor: torch.Tensor) -> bool:
    wide = tensor.float() if tensor.element_size() == 1 else tensor
    return bool(torch.isfinite(wide).all())


def _opened(path: Path, shown: str) -> Any:
    """Nothing but a file is opened: a pipe would wait for its writer."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = open(handle, "rb")  # noqa: SIM115, the caller closes it
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise Unusable(shown, "is not a file", "move it elsewhere")
    return file


def _header(file: Any, size: int, shown: str) -> Header:
    start = file.read(8)
    if len(start) < 8:
        raise Unusable(shown, "is empty" if not start else f"ends after {size} bytes", _AGAIN)
    length = int.from_bytes(start, "little")
    other = next((what for mark, what in _OTHERS if start.startswith(mark[:8])), None)
    if length > size - 8 or length > LARGEST_HEADER:
        if other is not None:
            raise Unusable(shown, f"is {other}", "get the file in the safetensors format; no other is ever opened")
        if length > LARGEST_HEADER:
            raise Unusable(shown, f"claims a header of {length:,} bytes, which no safetensors file has", _AGAIN)
        raise Unusable(shown, f"is cut off: its header has {length:,} bytes, the file {size:,}", _AGAIN)
    fields = _json(file.read(length), shown)
    given = fields.pop("__metadata__", {})
    if not isinstance(given, dict) or not all(isinstance(one, str) for one in given.values()):
        raise Unusable(shown, "has metadata that are not texts", _AGAIN)
    _check_places(fields, size - 8 - length, shown)
    entries = {name: Entry(one["dtype"], tuple(one["shape"])) for name, one in fields.items()}
    return Header(given, entries)


def _json(text: bytes, shown: str) -> dict[str, Any]:
    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except _Twice as error:
        raise Unusable(shown, f"names {cut(str(error))} twice in its header", _AGAIN) from None
    except (ValueError, RecursionError) as error:
        raise Unusable(shown, "is no safetensors file: its header is not JSON", _AGAIN) from error
    if not isinstance(fields, dict):
        raise Unusable(shown, "is no safetensors file: its header is not a JSON object", _AGAIN)
    return fields


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(name)
        found[name] = value
    return found


def _check_places(fields: dict[str, Any], size: int, shown: str) -> None:
    """Whether tensors fill what follows the header, each with as many bytes as its sizes ask for."""
    places: list[tuple[int, int, str]] = []
    for name, one in fields.items():
        what = _wrong(one)
        if what is not None:
            raise Unusable(shown, f"has a tensor {cut(name)} {what}", _AGAIN)
        places.append((*one["data_offsets"], name))
    at = 0
    for begin, end, name in sorted(places):
        if begin != at:
            how = "that overlaps another one" if begin < at else "with a gap before it"
            raise Unusable(shown, f"has a tensor {cut(name)} {how}", _AGAIN)
        at = end
    if at > size:
        raise Unusable(shown, f"is cut off: its tensors need {at:,} bytes, and {size:,} are there", _AGAIN)
    if at < size:
        raise Unusable(shown, f"has {size - at:,} bytes that belong to no tensor", _AGAIN)


def _wrong(one: Any) -> str | None:
    """What is wrong with a tensor's entry, as the end of "has a tensor weight …"."""
    if not isinstance(one, dict) or set(one) != {"dtype", "shape", "data_offsets"}:
        return "without type, sizes and place"
    if not isinstance(one["dtype"], str) or one["dtype"] not in _BYTES:
        return f"of type {cut(str(one['dtype']))}, which is not known"
    shape, place = one["shape"], one["data_offsets"]
    if not isinstance(shape, list) or not all(_is_count(number) for number in shape):
        return "with sizes that are none"
    if len(shape) > MOST_DIMENSIONS:
        return f"with {len(shape)} dimensions"
    if not isinstance(place, list) or len(place) != 2 or not all(_is_count(number) for number in place):
        return "without a place"
    elements = 1
    for number in shape:
        elements *= number
    if place[1] - place[0] != elements * _BYTES[one["dtype"]]:
        return "whose sizes do not match its bytes"
    return None


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**48
