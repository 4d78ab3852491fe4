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

from .cached import cached
from .latest import Latest
from .listing import Unlisted
from .making import CannotLoad, failed, make
from .unet_fit import fitting, judged

log = logging.getLogger(__name__)

PREFIX = "diffusers/"
MODULE = "diffusers.models.attention_processor"
SHOWN = "diffusers/models/attention_processor.py"


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
        problem = Unlisted("", SHOWN, f"{why}.", "Install diffusers anew, or do without its processors.")
        if _LISTING.last[1] != problem:
            log.warning("OneDiff: processors in %s cannot be listed. %s %s", SHOWN, problem.why, problem.fix)
        return [], problem


_LISTING: Latest[tuple[list[str], Unlisted | None]] = Latest(_list, ([], None))


def load(name: str) -> nn.Module:
    """A processor of diffusers.

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
        return CannotLoad(
            name, SHOWN, "is not there", "diffusers is not installed.", "Run “pip install diffusers”, or choose sdpa."
        )
    unknown = ("it is not among the processors of diffusers' UNets",)
    why = "; ".join(judged(path).get(name.removeprefix(PREFIX), unknown))
    return CannotLoad(
        name, SHOWN, "cannot take the place of a UNet's attention", f"{why[0].upper()}{why[1:]}.",
        f"Choose one of {', '.join(names())}.",
    )  # fmt: skip
