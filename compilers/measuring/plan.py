"""What of a model is compiled on a CPU: the heaviest kind of block first, and nothing that would not pay.

One block runs after the other there, and Python waits for each, so that a step gains what its blocks gain, each alone.
One kind of a class is timed both ways and tells of the others. On a GPU a gain may come from several blocks together,
or because Python keeps up: one block alone does not show it, and ``class_gain`` leaves no more than classes of many
kinds. That is how the two are told apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ...measure.pairs import Pair, spread, typical
from ...measure.verdict import NOISE, verdict
from .block import Block
from .class_gain import ClassGain
from .library_time import FUSED

#: The part of its time that a step must save to be faster by more than noise.
WORTH = 1 - 1 / NOISE


@dataclass(frozen=True)
class Found:
    """The part of its time that compiling saves a class; and why it is left, if it is; whether a block was timed."""

    saves: float
    reason: str | None = None
    timed: bool = False


class FirstKind(ClassGain):
    """What compiling gains for the blocks of one class, told from the kind of which a block is compiled first.

    Args:
        blocks: those of the class.
        known: what was found of it, by size of picture.
        size: that of the picture now. A class that gains at another one is compiled already; one that was left there is
            asked again.

    ``saves`` is the part of its time that compiling saves, at most while it is ``open``.
    """

    #: Until they agree: a mistake costs compiling many kinds, or the gain.
    most_pairs, seconds = 15, 5.0

    def __init__(self, plan: Plan, blocks: Sequence[Block], known: dict[str, Found], size: str):
        super().__init__(blocks[0].kind, len({block.signature for block in blocks}))
        found = known.get(size) or next((found for found in known.values() if found.reason is None), None)
        self.open = found is None
        self.saves, self.reason, self.timed = (found.saves, found.reason, found.timed) if found else (1.0, None, False)
        self.blocks = blocks
        self._plan, self._known, self._size = plan, known, size
        plan.classes.append(self)

    def asks(self, kind: Hashable) -> bool:
        return self.open

    def waits(self, kind: Hashable, step: int) -> bool:
        return self._plan.waits(self, kind, step)

    def is_told_later(self, kind: Hashable, step: int) -> bool:
        return self._plan.is_told_later(step)

    def tell(self, pairs: Sequence[Pair]) -> bool:
        low, high = spread(pairs)
        return not low < NOISE <= high

    def note_most(self, saved: float) -> None:
        self.saves = min(self.saves, saved)
        if self.saves < WORTH:
            self._leave(
                f"can gain little at this size: {1 - saved / FUSED:.0%} of its time goes into convolutions, matrix"
                " products and attention, which compiling leaves as they are."
            )
        self._plan.leave_what_does_not_pay()

    def note(self, kind: Hashable, pairs: Sequence[Pair]) -> None:
        uncompiled, compiled = typical(pairs)
        gain = uncompiled / compiled
        self.open, self.saves, self.timed = False, max(0.0, 1 - 1 / gain), True
        self._known[self._size] = Found(self.saves, timed=True)
        if verdict(gain) != "faster":
            self._leave(f"gains too little at this size: a compiled block ran {gain:.2f}× as fast as uncompiled.")
        self._plan.leave_what_does_not_pay()

    def give_up_timing(self) -> None:
        self.open = False

    def leave_as_too_little(self, gain: float) -> None:
        """Not even with it would steps be faster by more than noise: only ``gain`` times as fast."""
        if self.reason is None:
            self._leave(f"is not worth compiling at this size: the whole would run {gain:.2f}× as fast at most.")

    @property
    def weight(self) -> float:
        """Milliseconds of a step."""
        return sum(block.weight for block in self.blocks)

    def heaviest(self) -> tuple[float, Hashable]:
        """The kind that takes most of a step, behind its milliseconds."""
        found: dict[Hashable, float] = {}
        for block in self.blocks:
            found[block.signature] = found.get(block.signature, 0.0) + block.weight
        kind = max(found, key=found.__getitem__)
        return found[kind], kind

    def _leave(self, because: str) -> None:
        self.open, self.saves, self.reason = False, 0.0, f"{self.label} {because}"
        self._known[self._size] = Found(self.saves, self.reason, self.timed)


class Plan:
    """The ``classes`` of a model's ``blocks`` that may be timed. Of what else there is nobody knows what it gains."""

    def __init__(self, blocks: Sequence[Block]):
        self.classes: list[FirstKind] = []
        self._blocks = blocks
        self._began: int | None = None
        self._first: tuple[FirstKind, Hashable] | None = None
        self._is_weighed = False

    def waits(self, asked: FirstKind, kind: Hashable, step: int) -> bool:
        """Whether blocks of a kind are compiled in a later step. In the first one that compiles, the heaviest kind is
        compiled alone. The others are weighed meanwhile: what a step took before may have gone into loading weights.
        After that, the kind of a class that comes first tells of it."""
        if self._began is None:
            self._began = step
            heaviest = [(*one.heaviest(), one) for one in self.classes if one.open]
            weight, first, its_class = max(heaviest, key=lambda found: found[0], default=(0.0, None, asked))
            self._first = (its_class, first) if weight > 0 else None
        if step == self._began:
            return self._first is not None and self._first != (asked, kind)
        if not self._is_weighed:
            self._is_weighed = True
            self.leave_what_does_not_pay()
        return False

    def is_told_later(self, step: int) -> bool:
        """Whether a block that is built beside is to be timed: it may be most of a step, and gain nothing. Until then
        nothing more is compiled. All are asked: each notes when it was built."""
        return any([one.open and one.is_being_built(step) for one in self.classes])

    def leave_what_does_not_pay(self) -> None:
        """Leaves everything once no step can become faster by more than noise, whatever those classes gain of which it
        is not known."""
        whole = sum(block.weight for block in self._blocks)
        if not self._is_weighed or not whole:
            return
        timed = {id(block) for one in self.classes for block in one.blocks}
        unknown = sum(block.weight for block in self._blocks if id(block) not in timed and block.reason is None)
        saved = unknown + sum(one.saves * one.weight for one in self.classes)
        if saved / whole < WORTH:
            for one in self.classes:
                one.leave_as_too_little(whole / (whole - saved))
