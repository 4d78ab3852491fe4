"""What code that people wrote raises, in words. Their exceptions and classes may raise when they are looked at, too."""

from __future__ import annotations

import builtins
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection
from types import TracebackType
from typing import TypeVar, cast

import torch
from torch import nn

from .ending.stopping import Overdue, Stopped
from .inside import modules_in
from .user_code import Attendance

#: Packages whose exceptions are passed on as they are, besides Python's own. The host asks for torch's by their class.
_KNOWN = frozenset({"torch", "comfy", "comfy_execution", "builtins", "safetensors", "numpy"})

#: Py_TPFLAGS_HEAPTYPE: what Python code made, and not Python itself.
_HEAP_TYPE = 1 << 9

#: What an error says where memory ran out: on CUDA and others, on Linux's CPU, and on Windows'.
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")

#: The longest message of an exception that is passed on, and seconds that its class has to give it.
LONGEST, READING = 2000, 1.0

T = TypeVar("T")

#: Their text is made of their arguments alone.
_SIMPLE: tuple[type, ...] = (
    ValueError, TypeError, RuntimeError, KeyError, IndexError, AssertionError, NotImplementedError, ZeroDivisionError,
    RecursionError, MemoryError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, Stopped, Overdue,
)  # fmt: skip

#: Classes, by their ids, whose text did not come in time: they are not asked again.
_endless: dict[int, type] = {}


def said(error: BaseException) -> str:
    """``str(error)``, at most 2,000 characters, also where its own ``__str__`` raises or never returns."""
    text = _read(error)
    return "its message cannot be read" if text is None else text


def _read(error: BaseException) -> str | None:
    if _is_simple(error):
        return _text(error)
    cls = type(error)
    if id(cls) in _endless:
        return None
    try:
        return Attendance(seconds=READING).apart(lambda: _text(error), "the text of an error")
    except Overdue:
        _endless[id(cls)] = cls
        return None


def _is_simple(error: BaseException) -> bool:
    """Whether nobody's code runs when it is read."""
    return type(error) in _SIMPLE and _is_plain(vars(BaseException)["args"].__get__(error))


def _text(error: BaseException) -> str | None:
    try:
        return str.__getitem__(str(error), slice(LONGEST)).encode("utf-8", "backslashreplace").decode()[:LONGEST]
    except Stopped:
        raise
    except BaseException:
        return None


def is_no_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a device or the machine: torch says that in other classes and words by where it is."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = said(error).lower()
    return any(words in text for words in _NO_MEMORY)


def class_name(cls: type) -> str:
    """The name of a class, whatever its metaclass does."""
    return type.__dict__["__name__"].__get__(cls)


def qualified_name(cls: type) -> str:
    """The same within its module: "Outer.Mine"."""
    return type.__dict__["__qualname__"].__get__(cls)


def error_words(error: BaseException) -> str:
    """Class and first line of an error, without a full stop: ``ValueError: no GPU``; with the first one in a group."""
    first = next(iter(said(error).strip().splitlines()), "")
    words = f"{class_name(type(error))}: {first[:200]}".rstrip(": .")
    inner = _first_of(error)
    return words if inner is None else f"{words}, first {class_name(type(inner))}: {said(inner)[:200]}".rstrip(": .")


def _first_of(error: BaseException) -> BaseException | None:
    """What a group of errors holds first, and that one where it is a group too."""
    group = getattr(builtins, "BaseExceptionGroup", None)  # since Python 3.11
    found: BaseException | None = None
    while group is not None and issubclass(type(found or error), group):
        found = group.exceptions.__get__(found or error)[0]
    return found


def ordinary(error: BaseException) -> Exception:
    """The error itself where it is an Exception that can be read, else one that says the same: anything else ends the
    host's thread."""
    if issubclass(type(error), Exception) and _read(error) is not None:
        return cast(Exception, error)
    return RuntimeError(error_words(error))


def is_harmless(error: BaseException) -> bool:
    """Whether whoever shows an exception runs nobody's code: it, its notes and those that it came of are made of
    Python's and of packages' own classes, and of plain values. One that a person wrote may raise SystemExit when it is
    formatted a second time."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        own = {
            name: vars(BaseException)[name].__get__(one) for name in ("args", "__cause__", "__context__", "__dict__")
        }
        if not (_is_known(type(one)) and _is_plain(own["args"]) and _is_plain(own["__dict__"].get("__notes__"))):
            return False
        waiting += [own["__cause__"], own["__context__"]]
    return True


def _is_known(cls: type) -> bool:
    """Whether a class is Python's, or that of a module which is installed: a user's file only gives a name for it."""
    flags = type.__dict__["__flags__"].__get__(cls)
    if not flags & _HEAP_TYPE:
        return True
    module = sys.modules.get(str(type.__dict__["__dict__"].__get__(cls).get("__module__")))
    root = str(module.__name__ if module else "").partition(".")[0]
    return type(cls) is type and root in _KNOWN and getattr(module, class_name(cls), None) is cls


def _is_plain(value: object) -> bool:
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))  # type: ignore[call-overload]
    return value is None or type(value) in (str, int, float, bool, bytes)


def told(look: Callable[[], T], otherwise: T) -> T:
    """What a look at a person's class gives; ``otherwise`` where its metaclass raises, or does not return in time."""
    try:
        return Attendance(seconds=READING).apart(look, "a look at a class")
    except Stopped:
        raise
    except BaseException:
        return otherwise


def files_of(module: nn.Module) -> set[str]:
    """Source files of the classes of a module and of those inside it; torch's are not counted. None where a metaclass
    does not return."""
    return told(lambda: _files_of(module), set())


def _files_of(module: nn.Module) -> set[str]:
    files: set[str | None] = set()
    for _, part in modules_in(module):
        for cls in type.__dict__["__mro__"].__get__(type(part)):
            try:
                if not cls.__module__.startswith(("torch.", "builtins")):
                    files.add(inspect.getsourcefile(cls))
            except Stopped:
                raise
            except BaseException:  # it has no file, or its metaclass does not tell
                continue
    return {file for file in files if file}


def traceback_of(error: BaseException) -> TracebackType | None:
    """Its own, whatever its class says."""
    return vars(BaseException)["__traceback__"].__get__(error)


def lines_in(error: BaseException, files: Collection[str]) -> list[tuple[str, int]]:
    """The lines of these files that an exception passed, the innermost last."""
    frames = traceback.walk_tb(traceback_of(error))
    return [(frame.f_code.co_filename, line) for frame, line in frames if frame.f_code.co_filename in files]


_COMMON_IMPORTS = {
    "F": "import torch.nn.functional as F",
    "np": "import numpy as np",
    "nn": "from torch import nn",
    "Optional": "from typing import Optional",
    "rearrange": "from einops import rearrange",
    "repeat": "from einops import repeat",
    "softmax": "from torch import softmax",
}


#: PyTorch's names of dtypes in its errors.
_DTYPES = {"bfloat16": "bfloat16", "half": "float16", "float": "float32", "double": "float64"}


def cause_in_words(error: str) -> tuple[str, str] | None:
    """What an error comes of and what to do, for what people forget most; None for others. The first continues "the
    class …"."""
    undefined = re.match(r"NameError: name '(\w+)' is not defined", error)
    if undefined:
        name = undefined[1]
        line = _COMMON_IMPORTS.get(name, f"import {name}")
        return (
            f"uses {name}, which its file neither imports nor defines",
            f"Import or define it at the top of the file: {line}.",
        )
    before = re.search(r"cannot assign \S+ before \S*__init__\(\) call", error)
    if before or re.search(r"object has no attribute '_(parameters|buffers|modules|\w+_hooks)'", error):
        return ("does not call super().__init__()", "Make super().__init__() the first line of its __init__.")
    if re.search(r"the same dtype|expected scalar type", error):
        found = re.findall(r"\b(BFloat16|Half|Float|Double|float|double)\b", error)
        dtypes = sorted({_DTYPES[name.lower()] for name in found})
        if len(dtypes) == 2:
            return (
                f"computes with {dtypes[0]} and {dtypes[1]} at once",
                "Convert to the dtype of the input before that line: .to(hidden_states.dtype), or .to(q.dtype).",
            )
    return None
