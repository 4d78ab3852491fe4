"""Lists that blocks are handed and change: what a video VAE keeps of the frames before, from block to block.

One list serves all blocks, each with a place of its own in it; some have a second list, of one number, that says whose
turn it is. In a compiled block the length of the list and the number would be part of the graph, and each block would
need one of its own. So a block is handed a list of its own part alone, and the part is put back afterwards. Which part
that is, is seen while blocks are watched. A dictionary that a block changes, as SeedVR2's do by their modules, has no
such part: equal blocks share one graph, and in that these modules are those of one block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....patching.calls import Inputs

#: Why a block runs uncompiled that does something else to such a list, or changes a dictionary.
UNKNOWN = "it is handed a list or a dictionary and changes it in a way that no compiled block can."

#: All else that can be done to a list. What other libraries read of one without asking it is not seen: then the call as
#: a whole differs.
_OTHERS = (
    *("__iter__", "__len__", "__reversed__", "__contains__", "__delitem__", "__repr__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
    *("__add__", "__iadd__", "__mul__", "__rmul__", "__imul__"),
    *("clear", "copy", "count", "extend", "index", "insert", "remove", "reverse", "sort"),
)

Name = int | str
"""Which argument: its position, or its name."""


@dataclass
class Seen:
    """What a block does to one of its lists: places that it looks at or sets, from the number on; how many items it
    takes from the front, and puts at the end. Or the list ``is_number``."""

    lowest: int = 0
    end: int = 0
    taken: int = 0
    put: int = 0
    other: bool = False
    is_number: bool = False


class Watched(list):
    """A list that notes what is done to it: also by the methods of ``_OTHERS``."""

    def __init__(self, items: list, seen: Seen, at: int):
        super().__init__(items)
        self._seen, self._at = seen, at
        self._taken = self._put = 0

    def _looked(self, index: Any) -> None:
        if not isinstance(index, int) or index < 0:
            self._seen.other = True
            return
        self._seen.lowest = min(self._seen.lowest, index - self._at)
        self._seen.end = max(self._seen.end, index - self._at + 1)

    def __getitem__(self, index: Any) -> Any:
        self._looked(index)
        return super().__getitem__(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._looked(index)
        super().__setitem__(index, value)

    def pop(self, index: Any = -1) -> Any:
        self._seen.other |= index != 0
        self._taken += 1
        self._seen.taken = max(self._seen.taken, self._taken)
        return super().pop(index)

    def append(self, item: Any) -> None:
        self._put += 1
        self._seen.put = max(self._seen.put, self._put)
        super().append(item)

    def __radd__(self, before: list) -> list:
        self._seen.other = True
        return list.__add__(before, self)


def _noted(name: str) -> Callable[..., Any]:
    """A list's method, noted as something that a block's part of a list does not stand for."""
    plain = getattr(list, name)

    def method(self: Watched, *args: Any, **kwargs: Any) -> Any:
        self._seen.other = True
        return plain(self, *args, **kwargs)

    return method


for _name in _OTHERS:
    setattr(Watched, _name, _noted(_name))


class Lists:
    """Of one block."""

    def __init__(self) -> None:
        self._seen: dict[Name, Seen] = {}
        self._dictionaries: dict[Name, bool] = {}  # whether the block changes it

    @property
    def unfit(self) -> str | None:
        """Why the block cannot be compiled with them."""
        if any(self._dictionaries.values()):
            return UNKNOWN
        bad = any(
            seen.other or seen.lowest < 0 or (seen.put and (seen.end or seen.taken)) for seen in self._seen.values()
        )
        return UNKNOWN if bad else None

    def watched(self, run: Callable[..., Any], inputs: Inputs) -> Any:
        """Runs the block and notes what it does to its lists, and whether it changes a dictionary."""
        before = {name: dict(items) for name, items in dictionaries_in(inputs).items()}
        lists, at = lists_in(inputs), number_in(inputs)
        own: dict[Name, list] = {}
        for name, items in lists.items():
            seen = self._seen.setdefault(name, Seen(is_number=is_number(items)))
            own[name] = list(items) if is_number(items) else Watched(items, seen, at)
            seen.other |= seen.is_number != is_number(items)
        args, kwargs = _with(inputs, own)
        result = run(*args, **kwargs)
        for name, items in lists.items():
            items[:] = list.copy(own[name])
        for name, now in dictionaries_in(inputs).items():
            self._dictionaries[name] = self._dictionaries.get(name, False) or _changed(now, before[name])
        return result

    def knows(self, inputs: Inputs) -> bool:
        """Whether the block was watched with these lists and dictionaries."""
        known = all(name in self._seen for name in lists_in(inputs))
        return known and all(name in self._dictionaries for name in dictionaries_in(inputs))

    def alone(self, run: Callable[..., Any], inputs: Inputs) -> Any:
        """Runs the block with its own part of each list."""
        lists = lists_in(inputs)
        at = next((items[0] for name, items in lists.items() if self._seen[name].is_number), 0)
        parts = {name: self._part(name, items, at) for name, items in lists.items()}
        args, kwargs = _with(inputs, parts)
        before = {name: len(part) for name, part in parts.items()}
        result = run(*args, **kwargs)
        for name, items in lists.items():
            self._put_back(name, items, parts[name], before[name], at)
        return result

    def _part(self, name: Name, items: list, at: int) -> list:
        seen = self._seen[name]
        if seen.is_number:
            return [0]
        if seen.taken:
            return items[: max(seen.taken, seen.end)]
        return items[at : at + seen.end] if seen.end else []

    def _put_back(self, name: Name, items: list, part: list, before: int, at: int) -> None:
        seen = self._seen[name]
        if seen.is_number:
            items[0] = at + part[0]
        elif seen.taken:
            items[:before] = part
        elif seen.end:
            items[at : at + before] = part
        else:
            items.extend(part)


def is_number(items: list) -> bool:
    """Whether a list says whose turn it is: one whole number, in a list so that blocks can count on."""
    return len(items) == 1 and type(items[0]) is int


def lists_in(inputs: Inputs) -> dict[Name, list]:
    """The lists among a block's arguments."""
    return {name: value for name, value in _given(inputs) if type(value) is list}


def dictionaries_in(inputs: Inputs) -> dict[Name, dict]:
    """The dictionaries among a block's arguments."""
    return {name: value for name, value in _given(inputs) if type(value) is dict}


def _given(inputs: Inputs) -> list[tuple[Name, Any]]:
    args, kwargs = inputs
    return [*enumerate(args), *kwargs.items()]


def _changed(now: dict, before: dict) -> bool:
    return now.keys() != before.keys() or any(value is not before[key] for key, value in now.items())


def number_in(inputs: Inputs) -> int:
    """The place from which on a block's own part lies; 0 where no list says so."""
    return next((items[0] for items in lists_in(inputs).values() if is_number(items)), 0)


def _with(inputs: Inputs, lists: dict[Name, list]) -> Inputs:
    args, kwargs = inputs
    own = [lists.get(number, value) for number, value in enumerate(args)]
    return tuple(own), {name: lists.get(name, value) for name, value in kwargs.items()}
