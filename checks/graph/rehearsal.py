"""Calls a processor a few times on small tensors and notes which lines ran and what they did."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ...patching.inside import modules_in
from ...processors import written
from ..mounted import Mounted
from .calls import Calls, calls_at
from .code import code
from .kept import kept, state_of
from .spots import Code, Spot

_TORCH = str(Path(torch.__file__).parent)

#: Methods of tensors that hand their values to Python, which has to wait for them.
_READS = frozenset({"item", "tolist", "equal", "__bool__", "__float__", "__int__", "__index__", "__complex__"})
_WRITTEN = {"__bool__": "bool()", "__float__": "float()", "__int__": "int()", "__index__": "an index"}
_TO_NUMPY = frozenset({"numpy", "__array__"})


@dataclass
class Rehearsal:
    """What the calls did.

    ``plain`` and ``masked`` are the lines that ran without and with a mask, None where such a call failed. ``read`` are
    places where Python asked for a tensor's value, ``numpy`` where for an array, ``cpu`` where a tensor was sent to the
    CPU by name. ``changed`` are attributes and globals that a call changed, ``changing`` those that every call changes.
    """

    plain: frozenset[tuple[str, int]] | None = None
    masked: frozenset[tuple[str, int]] | None = None
    read: list[Spot] = field(default_factory=list)
    numpy: list[Spot] = field(default_factory=list)
    cpu: list[Spot] = field(default_factory=list)
    changed: frozenset[str] = frozenset()
    changing: frozenset[str] = frozenset()

    def ran(self, spot: Spot) -> bool:
        """Whether any line of a place ran."""
        lines = (self.plain or frozenset()) | (self.masked or frozenset())
        return any((spot.file, line) in lines for line in range(spot.first, spot.last + 1))


def rehearsal(mounted: Mounted) -> Rehearsal:
    """Evidence: the calls. A call that fails says nothing; why it fails is the probe's to tell."""
    found = Rehearsal()
    calls = mounted.evidence(calls_at)
    source = mounted.evidence(code)
    if calls is None:
        return found
    module = written(calls.processor)
    watched = [*(part for _, part in modules_in(module)), *(calls.attn.modules() if calls.attn is not None else ())]
    states = [state_of(watched, source.globals)]
    with kept(module, source.globals, calls.device), torch.inference_mode():
        try:
            arguments = calls.arguments()
            for repeat in range(3):
                if repeat:
                    mounted.apart(lambda: calls.processor(*arguments))
                else:
                    found.plain = mounted.apart(lambda: _watch(calls, arguments, source, found))
                states.append(state_of(watched, source.globals))
            if calls.mask is not None:
                arguments = calls.arguments(masked=True)
                found.masked = mounted.apart(lambda: _watch(calls, arguments, source, found))
        except mounted.attendance.stops:
            raise
        except BaseException:  # whatever forward raises
            pass
    if len(states) == 4:
        changes = [_differing(*pair) for pair in itertools.pairwise(states)]
        found.changed = frozenset().union(*changes)
        found.changing = changes[1] & changes[2]
    return found


def _differing(one: dict[str, Any], other: dict[str, Any]) -> frozenset[str]:
    """Names of attributes and globals that are not the same in two states."""
    names = (name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return frozenset(name.rpartition(".")[2] for name in names)


def _watch(calls: Calls, arguments: tuple, source: Code, found: Rehearsal) -> frozenset[tuple[str, int]]:
    """One call; returns the lines of the user's files that ran."""
    lines: set[tuple[str, int]] = set()

    def in_frame(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return in_frame

    def at_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename not in source.files:
            return None
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return in_frame

    previous = sys.gettrace()
    with _Reads(source, found):
        sys.settrace(at_call)
        try:
            calls.processor(*arguments)
        finally:
            sys.settrace(previous)
    return frozenset(lines)


def _words(args: tuple, kwargs: dict | None) -> list[str]:
    return [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, str)]


class _Reads(TorchFunctionMode):
    """Notes where the user's own code takes values out of tensors."""

    def __init__(self, source: Code, found: Rehearsal):
        super().__init__()
        self.source, self.found = source, found

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in _READS:
            self._note(self.found.read, name)
        elif name in _TO_NUMPY:
            self._note(self.found.numpy, name)
        elif name == "cpu" or (name == "to" and "cpu" in _words(args, kwargs)):
            self._note(self.found.cpu, name)
        return function(*args, **(kwargs or {}))

    def _note(self, spots: list[Spot], name: str) -> None:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename.startswith((_TORCH, __file__)):
            frame = frame.f_back
        if frame is None:
            return
        file, line = frame.f_code.co_filename, frame.f_lineno
        spot = Spot(name, file, line, line, _WRITTEN.get(name, f".{name}()"))
        if self.source.enters_graph(file, line) and not any(s.where == spot.where for s in spots):
            spots.append(spot)
