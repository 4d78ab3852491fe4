"""diffusers' own attention processors: ``diffusers/<Class>``.

Which of them fit a UNet's attention is read from the text of their file: importing diffusers takes long, and a list of
names would age. A class is imported when a run asks for it.
"""

from __future__ import annotations

import importlib
import logging
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from ...patching.ending.stopping import Overdue
from ...patching.user_code import Attendance, Cancel
from ..authored.make import CannotLoad, failed, make
from .latest import Latest
from .listing import Unlisted
from .unet_fit import fitting, judged

log = logging.getLogger(__name__)

PREFIX = "diffusers/"
MODULE = "diffusers.models.attention_processor"
SHOWN = "diffusers/models/attention_processor.py"
#: The newest diffusers that leaves every transformers, huggingface_hub and safetensors of a ComfyUI as it is.
REMEDY = "Run “pip install diffusers==0.35.2” (newer ones may upgrade transformers), or choose sdpa."

#: Seconds that diffusers has to be imported, from a slow disk.
IMPORTING = 300.0

#: The one instance of each class.
_made: dict[str, nn.Module] = {}


def source_file() -> Path | None:
    """The file with diffusers' processors; None where diffusers is not installed. Imports nothing."""
    spec = find_spec("diffusers")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(next(iter(folders)), "models", "attention_processor.py") if folders else None
    return path if path is not None and path.exists() else None


def names() -> list[str]:
    """The processors that can be mounted on a UNet's attention, as ``diffusers/<Class>``."""
    path = source_file()
    return [f"{PREFIX}{name}" for name in fitting(path)] if path else []


def listed() -> list[str]:
    """``names``, or what they were last where that takes long or fails."""
    return _LISTING.get()[0]


def unlisted() -> list[Unlisted]:
    """Why diffusers' processors could not be listed the last time; empty where they could."""
    error = _LISTING.last[1]
    return [] if error is None else [error]


def _list() -> tuple[list[str], Unlisted | None]:
    try:
        return names(), None
    except Exception as error:  # a broken installation may raise anything
        why = f"{type(error).__name__}: {error}".rstrip(": .")
        problem = Unlisted("", SHOWN, f"{why}.", "Reinstall diffusers, or do without its processors.")
        if _LISTING.last[1] != problem:
            log.warning("OneDiff: processors in %s cannot be listed. %s %s", SHOWN, problem.why, problem.fix)
        return [], problem


_LISTING: Latest[tuple[list[str], Unlisted | None]] = Latest(_list, ([], None))


def load(name: str, cancel: Cancel | None = None) -> nn.Module:
    """A processor of diffusers. It is imported and made where Cancel reaches it.

    Raises:
        CannotLoad: for a name that is not listed, and when diffusers cannot be imported or the class not be made.
    """
    try:
        path = source_file()
        refused = None if name in names() else _not_listed(name, path)
    except Exception as error:
        raise failed(name, SHOWN, SHOWN, "cannot be read", error) from error
    if refused is not None:
        raise refused
    if name in _made:
        return _made[name]
    own, attendance = name.removeprefix(PREFIX), Attendance(cancel, IMPORTING)
    try:
        cls = attendance.apart(lambda: getattr(importlib.import_module(MODULE), own), "diffusers to be imported")
    except Overdue as over:
        raise CannotLoad(
            name, SHOWN, f"was not imported within {over.seconds:g} s", "That goes on in the background.",
            "Run again in a while, or choose sdpa.",
        ) from over  # fmt: skip
    except attendance.stops:
        raise
    except BaseException as error:  # a broken installation may raise anything
        raise failed(name, str(path), SHOWN, "cannot be imported", error) from error
    return _made.setdefault(name, make(name, cls, str(path), SHOWN, Attendance(cancel)))


def _not_listed(name: str, path: Path | None) -> CannotLoad:
    if path is None:
        return CannotLoad(name, SHOWN, "is not there", "diffusers is not installed.", REMEDY)
    unknown = ("it is not among the processors of diffusers' UNets",)
    why = "; ".join(judged(path).get(name.removeprefix(PREFIX), unknown))
    return CannotLoad(
        name, SHOWN, "cannot take the place of a UNet's attention", f"{why[0].upper()}{why[1:]}.",
        f"Choose one of {', '.join(names())}.",
    )  # fmt: skip
