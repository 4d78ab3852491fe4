"""diffusers' own attention processors: ``diffusers/<Class>``.

Which of them fit a UNet's attention is read from the text of their file: importing diffusers takes long, and a list of
names would age. A class is imported when a run asks for it.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from .cached import cached
from .making import CannotLoad, failed, make
from .unet_fit import judged

PREFIX = "diffusers/"
MODULE = "diffusers.models.attention_processor"
SHOWN = "diffusers/models/attention_processor.py"
#: The newest diffusers that leaves every transformers, huggingface_hub and safetensors of a ComfyUI as it is.
REMEDY = "Run “pip install diffusers==0.35.2” (newer ones may upgrade transformers), or choose sdpa."


def source_file() -> Path | None:
    """The file with diffusers' processors; None where diffusers is not installed. Imports nothing."""
    spec = find_spec("diffusers")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(next(iter(folders)), "models", "attention_processor.py") if folders else None
    return path if path is not None and path.is_file() else None


def names() -> list[str]:
    """The processors that can be mounted on a UNet's attention, as ``diffusers/<Class>``."""
    path = source_file()
    return [f"{PREFIX}{name}" for name, reasons in judged(path).items() if not reasons] if path else []


def load(name: str) -> nn.Module:
    """A processor of diffusers.

    Raises:
        CannotLoad: for a name that is not listed, and when diffusers cannot be imported or the class not be made.
    """
    path = source_file()
    if path is None or name not in names():
        raise _not_listed(name, path)
    try:
        module = importlib.import_module(MODULE)
    except Exception as error:  # a broken installation may raise anything
        raise failed(name, str(path), SHOWN, "cannot be imported", error) from error
    return _instance(name, getattr(module, name.removeprefix(PREFIX)), str(path))


@cached
def _instance(name: str, cls: type, path: str) -> nn.Module:
    return make(name, cls, path, SHOWN)


def _not_listed(name: str, path: Path | None) -> CannotLoad:
    if path is None:
        return CannotLoad(name, SHOWN, "is not there", "diffusers is not installed.", REMEDY)
    unknown = ("it is not among the processors of diffusers' UNets",)
    why = "; ".join(judged(path).get(name.removeprefix(PREFIX), unknown))
    return CannotLoad(
        name, SHOWN, "cannot take the place of a UNet's attention", f"{why[0].upper()}{why[1:]}.",
        f"Choose one of {', '.join(names())}.",
    )  # fmt: skip
