"""One processor out of a class that somebody else wrote, or why there is none."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import islice
from typing import Any, get_args

import torch
from torch import nn

from ...patching.ending.stopping import Overdue
from ...patching.user_code import Attendance
from ...patching.user_errors import cause_in_words, class_name, error_words, said, told, traceback_of
from ..contract import Limits, MaskKind
from ..sites.find import Site
from .recipe import ChangesSite, Recipe
from .site_values import KNOWN

#: Entries that a set among ``limits`` may have.
MANY = 64


class CannotLoad(ValueError):
    """A listed class that cannot be used. ``where`` is "file:line"; ``what``, ``why`` and ``fix`` are a finding's."""

    def __init__(self, name: str, where: str, what: str, why: str, fix: str):
        super().__init__(f"{name} ({where}) {what}. {why} {fix}")
        self.name = name
        self.where = where
        self.what = what
        self.why = why
        self.fix = fix


def make(
    name: str,
    cls: type,
    path: str,
    shown: str,
    attendance: Attendance | None = None,
    place: tuple[torch.device | None, torch.dtype | None] = (None, None),
    site: Site | None = None,
    recipe: Recipe | None = None,
) -> nn.Module:
    """An instance of a class, in eval mode and without gradients: a Processor where it can be called as one, else as it
    is, for the check to say why not.

    Args:
        name: as the node lists it, for errors.
        path, shown: the class's file, as Python knows it and as people are told.
        attendance: looks after its code, which runs in a thread of its own.
        place: device and dtype of its weights, where it has any.
        site: where it is going to be, for the values that its ``__init__`` may need.
        recipe: what made another instance of it, None for the first one.

    Raises:
        CannotLoad: when it needs arguments, raises whatever it may, takes too long, or declares limits that are none.
    """
    attendance = attendance or Attendance()
    passed_on: tuple[type[BaseException], ...] = (CannotLoad, *attendance.stops)

    def made() -> nn.Module:
        return _made(name, recipe or Recipe(cls, place), shown, site)

    try:
        return attendance.apart(made, f"{name} to be made")
    except Overdue as over:
        where = f"{shown}:{_line_of(cls)}"
        raise too_slow(name, where, "was not made", over, "forward, or do it once beforehand") from over
    except passed_on:
        raise
    except BaseException as error:  # whatever a class raises, SystemExit too, is its author's to read
        raise failed(name, path, shown, "cannot be made", error, _line_of_init(cls)) from error


def _made(name: str, recipe: Recipe, shown: str, site: Site | None) -> nn.Module:
    where = f"{shown}:{_line_of(recipe.cls)}"
    needed = recipe.missing(site)
    if needed:
        raise CannotLoad(
            name,
            f"{shown}:{_line_of_init(recipe.cls)}",
            f"cannot be made: its __init__ needs {', '.join(needed)}",
            _why_missing(site),
            f"Give {'them defaults' if len(needed) > 1 else 'it a default'}: "
            f"def __init__(self, {', '.join(f'{one}=…' for one in needed)}).",
        )
    try:
        module = recipe.instance(site)
    except ChangesSite:
        raise CannotLoad(
            name,
            where,
            "cannot be made: its __init__ changes the attention module that it is given",
            "That module stays the model's own, for other nodes and for LoRAs.",
            "Keep its layers as attributes of your own (self.to_q = attn.to_q), and assign nothing to it.",
        ) from None
    limits = _limits(name, where, module)
    if limits is not None:
        module.__dict__["limits"] = limits
    return module


def _why_missing(site: Site | None) -> str:
    known = f"What a UNet's attention module tells is passed under these names: {', '.join(KNOWN)}."
    if site is None or site.has_projections:
        return f"Nobody passes that. {known}"
    return f"{known} {class_name(type(site.module))} computes attention in another way."


def too_slow(name: str, where: str, what: str, over: Overdue, instead: str) -> CannotLoad:
    """A file or class that had its time."""
    ended = "It was ended." if over.ended else "It waits in C code and cannot be ended: it goes on in the background."
    return CannotLoad(
        name, where, f"{what} within {over.seconds:g} s", ended, f"Move what takes so long into {instead}."
    )


def failed(name: str, path: str, shown: str, what: str, error: BaseException, at: int = 1) -> CannotLoad:
    """An exception in somebody's file, with the last line of that file that it went through; ``at`` where it went
    through none."""
    frames = [frame for frame in traceback.extract_tb(traceback_of(error)) if frame.filename == path]
    line = frames[-1].lineno if frames else None
    heard, words = said(error), error_words(error)
    message = heard
    if type(error) in (SyntaxError, IndentationError, TabError) and isinstance(error, SyntaxError):
        message = error.msg if isinstance(error.msg, str) else message
        line = error.lineno if error.filename == path else line
    fix, sentence = "Correct that line and queue again; the file is read again.", ""
    known = cause_in_words(words)
    if known is not None:
        sentence, fix = f"It {known[0]}. ", known[1]
        line = line if "super()" not in fix else at
    if type(error) is ModuleNotFoundError and type(error.name) is str:
        sentence = f"It imports {error.name}, which is not installed. "
        fix = f"Install {error.name} in ComfyUI's Python, or do without it: a file can import installed packages only."
    elif issubclass(type(error), SystemExit):
        fix = "Take out what ends the program there (sys.exit, argparse), and queue again; the file is read again."
    text = words if message is heard else f"{class_name(type(error))}: {message}".rstrip(": .")
    return CannotLoad(name, f"{shown}:{line or at}", what, f"{sentence}{text}.", fix)


def _line_of_init(cls: type) -> int:
    code = told(lambda: getattr(getattr(cls, "__init__", None), "__code__", None), None)
    return _line_of(cls) if code is None else code.co_firstlineno


def _line_of(cls: type) -> int:
    return told(lambda: inspect.getsourcelines(cls)[1], 1)  # 1 also where it was saved while it is read


def _limits(name: str, where: str, module: nn.Module) -> Limits | None:
    """The ``limits`` that a class declares, as a dict: ``{"devices": {"cuda"}, "max_head_dim": 128}``, or as Limits.
    They are looked at later where nobody watches over the class's code, so nothing of it is left in them."""
    declared: Any = getattr(module, "limits", None)
    if declared is None:
        return None
    try:
        if hasattr(type(inspect.getattr_static(type(module), "limits", None)), "__set__"):
            raise TypeError("limits is a property, which may say something else each time")
        given = vars(declared) if type(declared) is Limits else _entries(declared)
        return Limits(**{key: _limit(key, value) for key, value in given.items()})
    except (TypeError, ValueError) as error:
        raise CannotLoad(
            name,
            where,
            "declares limits that are not understood",
            f"{said(error)}.",
            'Write them as limits = {"devices": {"cuda"}, "dtypes": {torch.float16}, "max_head_dim": 128}, or fewer.',
        ) from error


def _entries(declared: Any) -> dict[str, Any]:
    if not issubclass(type(declared), Mapping):
        raise TypeError(f"limits have to be a dict (they are of type {class_name(type(declared))})")
    return {key: declared[key] for key in islice(iter(declared), MANY)}


#: Of those limits that are sets, of what type their entries are, which of that type they may be, and both in words.
_SETS: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "devices": (str, str.isidentifier, 'names such as "cuda"'),
    "dtypes": (torch.dtype, lambda dtype: True, "of type dtype"),
    "head_dims": (int, lambda size: size > 0, "whole numbers from 1"),
    "masks": (str, lambda kind: kind in get_args(MaskKind), 'of "bool" and "additive"'),
}

#: Those that have to be said.
_NEVER_NONE = ("masks", "gqa")


def _limit(name: Any, value: Any) -> Any:
    """One of the limits, as Limits has it.

    Raises:
        TypeError, ValueError: for what cannot be compared with a model later.
    """
    if type(name) is not str or name not in (known := [field.name for field in fields(Limits)]):
        raise TypeError(f"limits may have {', '.join(known)}")
    kind = class_name(type(value))
    if value is None and name not in _NEVER_NONE:
        return None
    if name in _SETS:
        return _set(name, value)
    if name == "capability":
        if type(value) is not tuple or [type(part) for part in value] != [int, int]:
            raise TypeError(f"capability has to be two whole numbers, such as (8, 0) (it is of type {kind})")
        return value
    if name == "gqa":
        if type(value) is not bool:
            raise TypeError(f"gqa has to be True or False (it is of type {kind})")
        return value
    if type(value) is not int or not 0 < value < 1 << 31:
        raise TypeError(f"max_head_dim has to be a whole number from 1 to {(1 << 31) - 1} (it is of type {kind})")
    return value


def _set(name: str, value: Any) -> frozenset[Any]:
    kind = class_name(type(value))
    if type(value) not in (set, frozenset, list, tuple) or len(value) > MANY:
        raise TypeError(f"{name} has to be a set of at most {MANY} (it is of type {kind})")
    wanted, fits, words = _SETS[name]
    for entry in list(value):
        if type(entry) is not wanted:
            raise TypeError(f"the entries of {name} have to be {words} (one is of type {class_name(type(entry))})")
    for entry in list(value):
        if not fits(entry):
            raise ValueError(f"the entries of {name} have to be {words} (one is {repr(entry)[:40]})")
    return frozenset(value)
