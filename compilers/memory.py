"""What is known of a loaded model, kept as long as the model is.

A node that runs again, because its inputs or a LoRA before it changed, finds its compiled graphs and its timings here.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable

from torch import nn

from ..status.step_times import StepTimes
from .clearing import CLEARED
from .graphs import SharedGraph
from .options import Reads

#: Combinations of patches and settings whose step times are kept: more than anybody goes to and fro between.
MOST_VARIANTS = 32


class ModelMemory:
    """Graphs that the model's blocks use, what its blocks read, and step times by what was active."""

    def __init__(self) -> None:
        self.graphs: set[SharedGraph] = set()
        self.reads: dict[type, Reads] = {}
        self.times: dict[Hashable, StepTimes] = {}
        self._cleared = CLEARED.marks

    def forget_cleared(self) -> None:
        """Lets go of what the user cleared since the last call."""
        (measurements, graphs, _), self._cleared = self._cleared, CLEARED.marks
        if measurements != CLEARED.measurements:
            self.times.clear()
        if graphs != CLEARED.graphs:
            self.graphs.clear()

    def learn(self, cls: type[nn.Module], seen: Reads) -> None:
        """Notes what a block of a class has been seen to read from ``transformer_options``."""
        self.reads.setdefault(cls, Reads()).add(seen)

    def times_of(self, variant: Hashable) -> StepTimes:
        """Step times with these patches and settings. Those of the variants that were used last are kept: a variant
        holds the functions in it, such as all versions of a processor that is being edited."""
        times = self.times[variant] = self.times.pop(variant, StepTimes())
        if len(self.times) > MOST_VARIANTS:
            del self.times[next(iter(self.times))]
        return times


_memories: weakref.WeakKeyDictionary[nn.Module, ModelMemory] = weakref.WeakKeyDictionary()


def memory_of(diffusion_model: nn.Module) -> ModelMemory:
    """The memory of a model, made at the first call. It goes with the model."""
    return _memories.setdefault(diffusion_model, ModelMemory())
