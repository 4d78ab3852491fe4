"""What is known of what compiling gains, in this process: by class of blocks, for every model of the architecture."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple
from weakref import ref

from .block import Block
from .class_gain import KINDS_TIMED, ClassGain
from .cleared import CLEARED, Marks
from .plan import FirstKind, Found, Plan

#: A class is timed by its first kinds when so many others would be saved. Fewer are compiled before it is clear.
MIN_KINDS_SAVED = 6

#: Types of device where that was measured, and where a plan says what is compiled.
TIMED_ON, PLANNED_ON = ("cpu", "cuda"), ("cpu",)


class _Class(NamedTuple):
    """What the gain of a class depends on. Processors' functions are not kept alive by it."""

    cls: type
    functions: tuple[ref[Callable], ...]
    kinds: frozenset
    way: Hashable
    cleared: Marks

    @property
    def is_gone(self) -> bool:
        return any(function() is None for function in self.functions)


class Gains:
    """Another checkpoint of the same architecture decides alike: it would compile what the first one left. What was
    found is kept until the user clears it."""

    def __init__(self) -> None:
        self._by_class: dict[_Class, ClassGain] = {}
        self._found: dict[_Class, dict[str, Found]] = {}

    def give(self, blocks: Sequence[Block], device: str, way: Hashable, size: str | None) -> None:
        """Gives each block what is known of its class, with what runs in it now.

        Args:
            device: the type of device that they run on.
            way: what the gain depends on besides, such as the backend.
            size: that of the picture, as the plan is made for it; None where classes of many kinds alone are left.
        """
        self._forget_gone()
        for block in blocks:
            block.gain = ClassGain()
        able = [block for block in blocks if block.reason is None and device in TIMED_ON]
        if size is not None and device in PLANNED_ON:
            # Others may count their calls, and what is timed runs more often than the model calls it.
            self._plan(blocks, [block for block in able if block.keeps_nothing(block.functions)], (device, way), size)
        else:
            self._give_by_class(able, (device, way))

    def _give_by_class(self, blocks: Iterable[Block], way: Hashable) -> None:
        by_class: dict[type, list[Block]] = {}
        for block in blocks:
            by_class.setdefault(type(block.module), []).append(block)
        for cls, members in by_class.items():
            kinds = frozenset(block.signature for block in members)
            if len(kinds) < KINDS_TIMED + MIN_KINDS_SAVED:
                continue
            key = _Class(cls, (), kinds, way, _cleared())
            gain = self._by_class.setdefault(key, ClassGain(cls.__name__, len(kinds)))
            for block in members:
                if block.runs_own_code:
                    block.gain = gain

    def _plan(self, blocks: Sequence[Block], timed: Iterable[Block], way: Hashable, size: str) -> None:
        classes: dict[tuple, list[Block]] = {}
        for block in timed:
            classes.setdefault((type(block.module), block.functions), []).append(block)
        plan = Plan(blocks)
        for (cls, functions), members in classes.items():
            kinds = frozenset(block.signature for block in members)
            key = _Class(cls, tuple(map(ref, functions)), kinds, way, _cleared())
            gain = FirstKind(plan, members, self._found.setdefault(key, {}), size)
            for block in members:
                block.gain = gain

    def _forget_gone(self) -> None:
        """Drops what was measured before the user cleared measurements, or with processors that are no more."""
        now = _cleared()
        self._by_class = {key: gain for key, gain in self._by_class.items() if key.cleared == now}
        self._found = {key: found for key, found in self._found.items() if key.cleared == now and not key.is_gone}


def _cleared() -> Marks:
    return replace(CLEARED.marks, backends=0)


GAINS = Gains()
