"""One sampling of a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...patching.instead import StepCount, called_instead
from ...patching.wrappers import KEY
from ..measuring.block import Block

#: Why another one of the same node runs uncompiled meanwhile: ComfyUI has one on each GPU.
BESIDE = "another one of this node is in use: on several GPUs, it is compiled on one of them."


@dataclass
class Sampling:
    """What concerns one sampling, made anew for each; the last one's stays until the next.

    ``now``: it goes on. ``broke_off``: it has not come to its end, or never will. ``tried``: a step ran in which blocks
    could have been called. ``is_not_finite``: the model itself gives NaN or Inf. ``unseen``: of a compiled step nobody
    looked whether its result is. ``gave_numbers``: its result has no NaN and no Inf. ``steps`` counts those in which
    the model was called as the host calls it. ``beside``: what else ran uncompiled, and why. ``unused`` says why
    compiling took no part in it, or in how many of its steps, as the record has it.
    """

    now: bool = False
    broke_off: bool = False
    tried: bool = False
    is_not_finite: bool = False
    unseen: bool = False
    gave_numbers: bool = True
    unused: dict[str, Any] | None = None
    steps: StepCount = field(default_factory=StepCount)
    beside: list[dict[str, str]] = field(default_factory=list)

    @property
    def in_none(self) -> bool:
        """Whether compiling took no part in it at all."""
        return self.unused is not None and self.unused["why"] != "some steps"

    def note_beside(self, module: nn.Module) -> None:
        """Notes that another module ran uncompiled."""
        device = next((weight.device for weight in module.parameters()), "no weights")
        found = {"path": f"{type(module).__name__} ({device})", "reason": BESIDE}
        if found not in self.beside:
            self.beside.append(found)

    def note_use(self, executor: Any, blocks: Sequence[Block]) -> None:
        """Notes at its end whether compiling took part in it, and who computed the model instead.

        Args:
            executor: the host's, of ``outer_sample``.
        """
        guider = getattr(executor, "class_obj", None)
        if not self.steps.calls:
            self.unused = {"why": "not called", **called_instead(guider, KEY)}
        elif self.tried and not any(block.ran for block in blocks):
            self.unused = {"why": "not reached", **called_instead(guider, KEY, inside=True)}
        else:
            self.unused = self.steps.some(guider, KEY)
