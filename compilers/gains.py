"""Which classes of blocks gain nothing from compiling, told from the first of their kinds.

A U-Net has a dozen kinds of residual block: one class, with other widths at each depth. Each kind is compiled for
itself, and where most of its time goes into convolutions, which Inductor leaves to the same library as uncompiled code,
that gains nothing. Measured, SD 1.5 at full size on 2 cores: 12 of its 15 graphs and most of its seconds of compiling
were residual blocks, which then ran 0.98 to 1.01 times as fast.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..processors.attach import Inputs
from ..status.pairs import Pair, compiled_first, ratios
from ..status.timing import Stopwatch
from .clearing import CLEARED
from .parity import clone_inputs

if TYPE_CHECKING:
    from .region_runner import RegionRunner

#: Kinds of a class that are timed before its other kinds are compiled.
KINDS_TIMED = 2

#: A class is timed when so many kinds would be saved. Fewer are compiled before it is clear what they gain.
MIN_KINDS_SAVED = 6

#: Below this the class is not worth its compiling: at a second a step, half of it in these blocks, a gain of 1.03 needs
#: over 60 steps for each second of compiling.
MIN_GAIN = 1.03

#: Compiled and uncompiled runs of a block that are timed, and the seconds after which there are no more.
PAIRS, SECONDS = 5, 2.0


class ClassGain:
    """What compiling gains for the blocks of one class in one architecture.

    Args:
        label: name of the class.
        kinds: signatures of its blocks (``Region.signature``); none when nobody wants to know.

    ``reason`` says why its blocks run uncompiled; None while they are compiled.
    """

    def __init__(self, label: str = "", kinds: frozenset[Hashable] = frozenset()):
        self.reason: str | None = None
        self._label = label
        self._kinds = kinds
        self._pairs: dict[Hashable, list[Pair]] = {}

    def asks(self, kind: Hashable) -> bool:
        """Whether blocks of this kind are to be timed."""
        worthwhile = len(self._kinds) >= KINDS_TIMED + MIN_KINDS_SAVED
        return worthwhile and len(self._pairs) < KINDS_TIMED and kind not in self._pairs

    def note(self, kind: Hashable, pairs: list[Pair]) -> None:
        """Notes the times of a block. The last kind that is asked for decides."""
        if pairs:
            self._pairs[kind] = pairs
        if len(self._pairs) < KINDS_TIMED:
            return
        gain = statistics.median(ratio for timed in self._pairs.values() for ratio in ratios(timed))
        if gain < MIN_GAIN:
            self.reason = (
                f"{len(self._pairs)} of the {len(self._kinds)} kinds of {self._label} were compiled and ran {gain:.2f}×"
                " as fast as uncompiled: this class is not worth compiling."
            )


#: Another checkpoint of the same architecture must decide alike: it would compile what this one left.
_known: dict[tuple[Hashable, ...], ClassGain] = {}


def find_gains(runners: Iterable[RegionRunner], way: Hashable) -> None:
    """Gives each block what is known of its class.

    Args:
        runners: all blocks of a model.
        way: what the gain depends on besides, such as the backend and the device.
    """
    cleared = (CLEARED.measurements, CLEARED.graphs)
    for key in [key for key in _known if key[-1] != cleared]:
        del _known[key]
    by_class: dict[type, list[RegionRunner]] = {}
    for runner in runners:
        by_class.setdefault(type(runner.block), []).append(runner)
    for cls, members in by_class.items():
        kinds = frozenset(runner.signature for runner in members)
        gain = _known.setdefault((cls, kinds, way, cleared), ClassGain(cls.__name__, kinds))
        for runner in members:
            runner.gain = gain


def time_pairs(
    compiled: Callable[[Inputs], Any], uncompiled: Callable[[Inputs], Any], inputs: Inputs, device: torch.device
) -> list[Pair]:
    """Times a block both ways, by turns, each run on its own clones of the inputs."""
    watch, start = Stopwatch(device), time.monotonic()
    pairs: list[Pair] = []
    while len(pairs) < PAIRS and time.monotonic() - start < SECONDS:
        times: dict[bool, float] = {}
        first = compiled_first(len(pairs))
        for is_compiled in (first, not first):
            run = partial(compiled if is_compiled else uncompiled, clone_inputs(inputs))
            _, times[is_compiled] = watch.time(run)
        pairs.append((times[False], times[True]))
    return pairs
