"""Which classes of a model's blocks are timed, and what is known of each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace

from .block import Block
from .class_gain import KINDS_TIMED, ClassGain
from .cleared import CLEARED

_DEVICES = ("cpu", "cuda")


#: A class is timed when so many kinds would be saved. Fewer are compiled before it is clear what they gain.
MIN_KINDS_SAVED = 6


#: Another checkpoint of the same architecture must decide alike: it would compile what this one left.
_known: dict[tuple[Hashable, ...], ClassGain] = {}


def find_gains(blocks: Iterable[Block], device: str, way: Hashable) -> None:
    """Gives each block what is known of its class.

    Args:
        blocks: all blocks of a model.
        device: the type of device that they run on.
        way: what the gain depends on besides, such as the backend.
    """
    cleared = replace(CLEARED.marks, backends=0)
    for key in [key for key in _known if key[-1] != cleared]:
        del _known[key]
    by_class: dict[type, list[Block]] = {}
    for block in blocks:
        block.gain = ClassGain()
        if block.reason is None and device in _DEVICES:
            by_class.setdefault(type(block.module), []).append(block)
    for cls, members in by_class.items():
        kinds = frozenset(block.signature for block in members)
        if len(kinds) < KINDS_TIMED + MIN_KINDS_SAVED:
            continue
        gain = _known.setdefault((cls, kinds, device, way, cleared), ClassGain(cls.__name__, len(kinds)))
        for block in members:
            block.gain = gain
