"""How long a processor takes, and findings on one whose check came to no end, because of what its code does."""

from __future__ import annotations

import time

import torch
from torch import nn

from ...patching.ending.stopping import Overdue
from ...patching.user_errors import class_name, error_words, files_of, lines_in, told
from ..finding import Finding, Severity
from ..mounted import Mounted
from ..source import class_location, function_location, short_path
from .bench import dtypes_of
from .cases import MASKS
from .real import Unavailable, bench, small_cases

NOT_RETURNED, SLOW, UNFINISHED, RAISES = "never-returns", "too-slow-to-check", "check-unfinished", "raises-in-check"

#: After one of these a processor is not tried at other places.
FINAL = frozenset({NOT_RETURNED, SLOW, UNFINISHED})

#: With one of these it is used all the same, uncompiled: nobody knows how long compiling would take, and Cancel would
#: not reach it.
USED_UNCOMPILED = frozenset({SLOW, UNFINISHED})
_USED = "It is used, and its blocks run uncompiled."


#: Seconds of a small call from which on a check, which makes about a hundred of them, is not gone on with.
TOO_SLOW = 0.5


def pace(mounted: Mounted) -> float:
    """Evidence: seconds of the slowest small call, without and with a mask, by a call that can be left. A first call
    may have to make something, so a slow one is made again. 0 where it cannot run here.

    Raises:
        Overdue: when a call takes all the time that there is.
    """
    dtypes = sorted(dtypes_of(mounted), key=lambda dtype: dtype != torch.float32)
    small = next(iter(small_cases(mounted, dtypes[0])), None) if dtypes else None
    slowest = 0.0
    if small is None:
        return slowest
    try:
        with bench(mounted, small) as real:
            for mask in (None, MASKS[-1]):
                inputs = real.inputs(mask)
                for _ in range(2):
                    start = time.monotonic()
                    real.run(inputs)
                    seconds = time.monotonic() - start
                    if seconds < TOO_SLOW:
                        break
                slowest = max(slowest, seconds)
    except Unavailable:
        return slowest
    except mounted.attendance.stops:
        raise
    except BaseException:  # what it raises is the other layers' to tell
        return slowest
    return slowest


def not_returned(path: str, module: nn.Module, over: Overdue) -> Finding:
    """A call that was left."""
    why = "It did not finish a call with a few tokens, and " + ("was ended." if over.ended else "goes on in C code.")
    return _finding(
        "error", NOT_RETURNED, path, module, f"did not return within {over.seconds:g} s", why,
        "Look for a loop without an end, or for something that forward waits for.",
    )  # fmt: skip


def slow(path: str, module: nn.Module, seconds: float) -> Finding:
    """Calls that take long and end."""
    return _finding(
        "warning", SLOW, path, module, f"takes {seconds:.1f} s for a call with a few tokens, so it was not checked",
        f"A check makes about a hundred such calls, and a picture many more. {_USED}",
        "Take out of forward what takes so long, such as waiting, loading or compiling; do it in __init__.",
    )  # fmt: skip


def unfinished(path: str, module: nn.Module, over: Overdue) -> Finding:
    """A check that was given up between two calls, or while Dynamo traced one."""
    return _finding(
        "warning", UNFINISHED, path, module, f"could not be fully checked within {over.seconds:g} s",
        f"Its calls are slow, or its graph is large, as from a long loop. {_USED}",
        "Take long loops and slow calls out of forward.",
    )  # fmt: skip


def cannot_be_looked_at(path: str, module: nn.Module, error: BaseException) -> Finding:
    """A class that raises when it is looked at."""
    lines = lines_in(error, files_of(module))
    where = f"{short_path(lines[-1][0])}:{lines[-1][1]}" if lines else None
    return _finding(
        "error", RAISES, path, module, f"raises {error_words(error)} when it is inspected",
        "The check could not go on after that.",
        "Correct that line: a metaclass, a property or a __signature__ must not raise.", where,
    )  # fmt: skip


def _finding(
    severity: Severity,
    rule: str,
    path: str,
    module: nn.Module,
    what: str,
    why: str,
    fix: str,
    where: str | None = None,
) -> Finding:
    cls = type(module)
    uncompiled = rule in USED_UNCOMPILED
    return Finding(severity, path, class_name(cls), where or _place(cls), what, why, fix, rule, uncompiled=uncompiled)


def _place(cls: type[nn.Module]) -> str:
    return told(lambda: function_location(cls.forward) or class_location(cls), "input")
