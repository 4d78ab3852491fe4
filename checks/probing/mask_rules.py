"""Rules on what a processor makes of masks, by its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from ...processors.elsewhere import CallKind
from ..mounted import Mounted
from ..rule import Hit, Layer, Rule, Subject, rule
from ..source import function_location
from .bench import brought
from .cases import Mask, in_words
from .trial import trial
from .words import SERVED, mask_name, per_head, when


class Masks(Rule):
    """A rule on masks; ``forms(subject)`` are those that break it. ``served`` tells that PyTorch's attention computes
    such calls; then it is an error where the model's own blocks bring such a mask."""

    layer: ClassVar[Layer] = "probe"
    subject: ClassVar[type[Subject]] = Mounted
    served: ClassVar[bool] = True

    def forms(self, subject: Mounted) -> Sequence[Mask]:
        raise NotImplementedError

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        forms = self.forms(subject)
        mine = [mask for mask in forms if mask in subject.evidence(brought).masks] if forms and self.served else []
        others = [mask for mask in forms if mask not in mine]
        name, place = mask_name(subject), function_location(type(subject.module).forward)
        values = {"mask": name, "heads": per_head(subject)}
        if mine:
            when_ = "This model's own blocks bring such masks."
            yield Hit({**values, "masks": in_words(mine), "when": when_}, place)
        if others:
            kinds = kinds_of(others) if self.served else ()
            when_ = f"{when(subject, kinds)} {SERVED}" if kinds else "Regional prompts would have no effect."
            yield Hit({**values, "masks": in_words(others), "when": when_}, place, "warning", served=kinds)


@rule
class IgnoresMask(Masks):
    """It takes a mask and computes as if there were none."""

    severity = "warning"
    served = False
    what = "takes a mask and does not use it"
    why = "Its result is the same with {masks} as without. {when}"
    fix = (
        "Use {mask}. Where that cannot be, take it out of forward: calls with one are then computed by PyTorch's "
        "attention, as a warning will say."
    )

    def forms(self, subject: Mounted) -> Sequence[Mask]:
        return subject.evidence(trial).ignored


@rule
class InvertsMask(Masks):
    """True means "takes part" in PyTorch's attention, "left out" in some others."""

    what = "reads masks the wrong way round"
    why = "With {masks}, its result is that of PyTorch's attention for the reversed mask. {when}"
    fix = "Let True mean that a key takes part (use {mask}, not ~{mask}), and add additive masks to the scores."

    def forms(self, subject: Mounted) -> Sequence[Mask]:
        return subject.evidence(trial).inverted


@rule
class MisreadsMask(Masks):
    """Without a mask its result is PyTorch's, with one it is not."""

    what = "applies masks in another way than PyTorch's attention"
    why = "Where it runs without a mask both agree; with {masks} they do not. {when}"
    fix = "Bool: keys where it is False get -inf before the softmax. Additive: add it to the scaled scores. {heads}"

    def forms(self, subject: Mounted) -> Sequence[Mask]:
        return subject.evidence(trial).misread


def kinds_of(masks: Sequence[Mask]) -> tuple[CallKind, ...]:
    """Calls with these masks."""
    return tuple(CallKind(mask=(mask.dims, mask.boolean)) for mask in masks)


def told_of_masks(subject: Mounted) -> tuple[CallKind, ...]:
    """Calls with masks of which a rule on masks tells that they are misread."""
    found = subject.evidence(trial)
    return kinds_of([*found.inverted, *found.misread])
