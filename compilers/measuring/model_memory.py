"""What is known of a loaded model, kept as long as the model is.

A node that runs again, because its inputs or a LoRA before it changed, finds its compiled graphs and its timings here.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import dataclass, field

from torch import nn

from ...measure.step_times import StepTimes
from ..blocks.shared_graph import SharedGraph
from ..blocks.transformer_options import Reads
from .cleared import CLEARED

#: Combinations of patches and settings of which this is kept: more than anybody goes to and fro between.
MOST_VARIANTS = 32


@dataclass
class Variant:
    """What is known of a model with one combination of patches and settings: graphs that its blocks use, step times."""

    graphs: set[SharedGraph] = field(default_factory=set)
    times: StepTimes = field(default_factory=StepTimes)


class ModelMemory:
    """What the model's blocks read, and its variants, the one that was used last at the end."""

    def __init__(self) -> None:
        self.reads: dict[Hashable, Reads] = {}
        self._watched: set[tuple[Hashable, tuple[str, ...]]] = set()
        self._variants: dict[Hashable, Variant] = {}
        self._cleared = CLEARED.marks

    @property
    def graphs(self) -> set[SharedGraph]:
        """Of all variants."""
        return {graph for variant in self._variants.values() for graph in variant.graphs}

    def forget_cleared(self) -> None:
        """Lets go of what the user cleared since the last call."""
        before, self._cleared = self._cleared, CLEARED.marks
        for variant in self._variants.values():
            if before.measurements != self._cleared.measurements:
                variant.times = StepTimes()
            if before.graphs != self._cleared.graphs:
                variant.graphs.clear()

    def learn(self, kind: Hashable, seen: Reads, roles: tuple[str, ...] = ()) -> None:
        """Notes what a block of a kind, its class and the processors in it that may read, has been seen to read from
        ``transformer_options``, while foreign code acted in these roles: it may keep the block from code of its own,
        which reads more."""
        self.reads.setdefault(kind, Reads()).add(seen)
        self._watched.add((kind, roles))

    def watched(self, kind: Hashable, roles: tuple[str, ...]) -> bool:
        """Whether a block of a kind was seen while foreign code acted in these roles."""
        return (kind, roles) in self._watched

    def variant(self, key: Hashable) -> Variant:
        """What is known with these patches and settings. Only the variants that were used last are kept: each version
        of a processor that is being edited is another one."""
        variant = self._variants[key] = self._variants.pop(key, Variant())
        if len(self._variants) > MOST_VARIANTS:
            del self._variants[next(iter(self._variants))]
        return variant


_memories: weakref.WeakKeyDictionary[nn.Module, ModelMemory] = weakref.WeakKeyDictionary()


def memory_of(diffusion_model: nn.Module) -> ModelMemory:
    """The memory of a model, made at the first call. It goes with the model."""
    return _memories.setdefault(diffusion_model, ModelMemory())
