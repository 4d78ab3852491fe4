"""One processor out of a class that somebody else wrote, or why there is none."""

from __future__ import annotations

import inspect
import traceback
from typing import Any, cast

import torch
from torch import nn

from .adapt import NotCallable, adapt
from .contract import Limits
from .repair import with_forward


class CannotLoad(ValueError):
    """A listed class that cannot be used. ``where`` is "file:line"; ``what``, ``why`` and ``fix`` are a finding's."""

    def __init__(self, name: str, where: str, what: str, why: str, fix: str):
        super().__init__(f"{name} ({where}) {what}. {why} {fix}")
        self.name = name
        self.where = where
        self.what = what
        self.why = why
        self.fix = fix


def make(name: str, cls: type, path: str, shown: str) -> nn.Module:
    """An instance of a class, in eval mode and without gradients: a Processor where it can be called as one, else as it
    is, for the check to say why not.

    Args:
        name: as the node lists it, for errors.
        path, shown: the class's file, as Python knows it and as people are told.

    Raises:
        CannotLoad: when it needs arguments, raises, or declares limits that are none.
    """
    where = f"{shown}:{_line_of(cls)}"
    needed = needed_arguments(cls)
    if needed:
        raise CannotLoad(
            name,
            where,
            f"cannot be made: its __init__ needs {', '.join(needed)}",
            "A processor is chosen by its name alone, so nobody passes them.",
            f"Give {'them defaults' if len(needed) > 1 else 'it a default'}.",
        )
    limits = _limits(name, where, cls)
    try:
        with torch.inference_mode(False):
            module = _new(cls).eval().requires_grad_(False)
    except Exception as error:
        raise failed(name, path, shown, "cannot be made", error) from error
    if limits is not None:
        module.__dict__["limits"] = limits
    try:
        return adapt(module)
    except NotCallable:
        return module


def _new(cls: type) -> nn.Module:
    """An instance with an explicit ``forward``. A class's ``__new__`` may hand out another class's instance, as
    diffusers' old names do; that class is then made."""
    made: object = with_forward(cls)()
    return made if isinstance(made, nn.Module) else with_forward(type(made))()


def failed(name: str, path: str, shown: str, what: str, error: BaseException) -> CannotLoad:
    """An exception in somebody's file, with the last line of that file that it went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = frames[-1].lineno if frames else None
    message = str(error)
    if isinstance(error, SyntaxError):
        message = error.msg
        line = error.lineno if error.filename == path else line
    fix = "Correct that line and queue again; the file is read anew."
    if isinstance(error, ModuleNotFoundError):
        fix = f"Install {error.name} in ComfyUI's Python, or do without it: a file can import installed packages only."
    text = f"{type(error).__name__}: {message}".rstrip(": .")
    return CannotLoad(name, f"{shown}:{line or 1}", what, f"{text}.", fix)


def needed_arguments(cls: type) -> list[str]:
    """Parameters of ``__init__`` without a default."""
    init = cast(Any, cls).__init__
    if init in (object.__init__, nn.Module.__init__):
        return []
    parameters = list(inspect.signature(init).parameters.values())[1:]
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _line_of(cls: type) -> int:
    try:
        return inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return 1


def _limits(name: str, where: str, cls: type) -> Limits | None:
    """The ``limits`` that a class declares, as a dict: ``{"devices": {"cuda"}, "max_head_dim": 128}``."""
    declared = getattr(cls, "limits", None)
    if declared is None or isinstance(declared, Limits):
        return declared
    try:
        sets = {"devices", "dtypes"}
        values: dict[str, Any] = {k: frozenset(v) if k in sets else v for k, v in dict(declared).items()}
        return Limits(**values)
    except (TypeError, ValueError) as error:
        raise CannotLoad(
            name,
            where,
            "declares limits that are not understood",
            f"{error}.",
            'Write them as limits = {"devices": {"cuda"}, "dtypes": {torch.float16}, "max_head_dim": 128}, or fewer.',
        ) from error
