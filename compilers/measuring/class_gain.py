"""Which classes of blocks gain nothing from compiling, told from the first of their kinds.

A UNet has a dozen kinds of residual block: one class, with other widths at each depth. Each kind is compiled for
itself, and where most of its time goes into convolutions, which Inductor leaves to the same library as uncompiled code,
that gains nothing. Measured: 12 of the 15 graphs of SD 1.5 at full size were residual blocks, and on 2 cores they then
ran 0.98 to 1.01 times as fast; 12 of the 14 of SDXL were, and on an H200 two of them ran 0.79 and 0.98 times as fast.

On CUDA devices, and on a CPU in a speed report, where else a ``plan`` decides; on other devices nothing was measured.
The sizes that are sampled first decide for all: to decide anew would compile anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch

from ...measure.pairs import Order, Pair, typical
from ...measure.stopwatch import Stopwatch
from ...measure.verdict import verdict
from ...patching.calls import Inputs
from ..blocks.parity import clone_inputs
from ..blocks.shared_graph import SharedGraph

#: Kinds of a class that are timed before its other kinds are compiled.
KINDS_TIMED = 2


#: Compiled and uncompiled runs of a block that are timed; after so many seconds no more than the fewest.
MOST_PAIRS, FEWEST_PAIRS, SECONDS = 5, 3, 2.0


#: Runs that are timed as one where the device works behind Python, as it does inside a step: of a single run most would
#: be the wait for it.
IN_A_ROW = 8


class ClassGain:
    """What compiling gains for the blocks of one class in one architecture.

    Args:
        label: name of the class.
        kinds: number of its kinds; 0 if the class is not to be timed.

    ``reason`` says why its blocks run uncompiled; None while they are compiled. ``most_pairs`` of runs are timed, in
    so many ``seconds``. ``begun`` is the graph of a kind that will tell of the others once it is built. ``timed``:
    whether a compiled block of it was timed, in this run or an earlier one.
    """

    most_pairs, seconds = MOST_PAIRS, SECONDS

    def __init__(self, label: str = "", kinds: int = 0):
        self.reason: str | None = None
        self.label = label
        self.begun: SharedGraph | None = None
        self.timed = False
        self._kinds = kinds
        self._times: dict[Hashable, Pair] = {}
        self._seen_built: int | None = None

    def asks(self, kind: Hashable) -> bool:
        """Whether blocks of this kind are to be timed."""
        return self._kinds > 0 and len(self._times) < KINDS_TIMED and kind not in self._times

    def waits(self, kind: Hashable, step: int) -> bool:
        """Whether blocks of this kind are not compiled yet in the step of this number."""
        return False

    def is_told_later(self, kind: Hashable, step: int) -> bool:
        """Whether blocks of this kind are not compiled yet, because one whose library is built beside will tell what
        they gain."""
        return self.asks(kind) and self.is_being_built(step)

    def is_being_built(self, step: int) -> bool:
        """Whether a kind that will tell is built beside. In one more step it is run and timed, if it is run at all."""
        library = self.begun.library if self.begun is not None else None
        if library is None or library.at_work:
            self._seen_built = None
            return library is not None
        if self._seen_built is None:
            self._seen_built = step
        return step == self._seen_built

    def tell(self, pairs: Sequence[Pair]) -> bool:
        """Whether no more pairs of runs need be timed, once there are the fewest."""
        return False

    def note_most(self, saved: float) -> None:
        """Notes the part of a block's time that compiling could save at most, told without compiling it."""

    def note(self, kind: Hashable, pairs: Sequence[Pair]) -> None:
        """Notes the times of a block. The last kind that is asked for decides: what its runs take counts, so that a
        large block counts for more than a small one."""
        self._times[kind], self.timed = typical(pairs), True
        if len(self._times) < KINDS_TIMED:
            return
        uncompiled, compiled = (sum(way) for way in zip(*self._times.values(), strict=True))
        gain = uncompiled / compiled
        # Less is not worth its compiling either: at a second a step, half of it in these blocks, a gain of 1.03 needs
        # over 60 steps for each second of compiling.
        if verdict(gain) != "faster":
            self.reason = (
                f"{self.label} gains too little: {len(self._times)} of its {self._kinds} widths were compiled and ran"
                f" {gain:.2f}× as fast as uncompiled."
            )

    def give_up_timing(self) -> None:
        """A block could not be timed, so others could not either."""
        self._kinds = 0


def time_pairs(
    compiled: Callable[[Inputs], Any],
    uncompiled: Callable[[Inputs], Any],
    inputs: Inputs,
    device: torch.device,
    most: int = MOST_PAIRS,
    seconds: float = SECONDS,
    tell: Callable[[Sequence[Pair]], bool] = lambda pairs: False,
) -> list[Pair]:
    """Times a block both ways, by turns, each run on its own clones of the inputs, until the pairs ``tell``."""
    watch, start = Stopwatch(device), time.monotonic()
    runs = 1 if device.type == "cpu" else IN_A_ROW
    pairs: list[Pair] = []
    order = Order()

    def run(way: Callable[[Inputs], Any]) -> None:
        for _ in range(runs):
            way(clone_inputs(inputs))

    def milliseconds(way: Callable[[Inputs], Any]) -> float:
        return watch.time(partial(run, way))[1] / runs

    def go_on() -> bool:
        return len(pairs) < FEWEST_PAIRS or not (tell(pairs) or time.monotonic() - start >= seconds)

    while len(pairs) < most and go_on():
        if order.compiled_first(len(pairs)):
            ours = milliseconds(compiled)
            pairs.append((milliseconds(uncompiled), ours))
        else:
            pairs.append((milliseconds(uncompiled), milliseconds(compiled)))
    return pairs
