"""What a session does when compiled code fails, or gives what no model would."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from ...patching.wrappers import ModelCall
from ...processors import finite
from ..blocks.shared_graph import SharedGraph
from ..blocks.tensors import tensors_of
from ..measuring.block import Block
from .state import SessionState
from .step import Step

#: Why a model runs uncompiled after that.
NOT_FINITE = "compiled code gave NaN or Inf."

#: Shapes of inputs of one size for which blocks are compared.
MOST_SHAPES = 3

#: What comparing a block costs, in runs of it, and the share of all steps that may go into it.
COSTS, SHARE = 3.0, 0.005


def all_finite(result: Any) -> bool:
    """Whether the tensors of a result hold no NaN and no Inf."""
    return finite.all_finite(tensors_of(result))


class Sizes:
    """For which steps blocks are compared anew: for each size of picture and batch, and with each for some more shapes,
    as prompts of other lengths bring them. Many models read each prompt at its own length: compared for all of them,
    every picture would lose a step."""

    def __init__(self) -> None:
        self._shapes: dict[str, list[Hashable]] = {}

    def of(self, size: str, shape: Hashable) -> tuple[str, int]:
        """What is compared once. ``size`` is that of the picture and the batch, ``shape`` that of all inputs."""
        shapes = self._shapes.setdefault(size, [])
        if shape not in shapes and len(shapes) < MOST_SHAPES:
            shapes.append(shape)
        return size, shapes.index(shape) if shape in shapes else len(shapes) - 1


class Turns:
    """Which block is compared again in a compiled step: one after the other, so seldom that it takes next to none of
    the time."""

    def __init__(self) -> None:
        self._steps = self._turn = 0

    def next(self, blocks: Sequence[Block]) -> Block | None:
        self._steps += 1
        if self._steps * len(blocks) < COSTS / SHARE:
            return None
        able = [block for block in blocks if block.compiled and not block.operators]
        if self._steps * len(able) < COSTS / SHARE:
            return None
        self._steps, self._turn = 0, self._turn + 1
        return able[self._turn % len(able)]


class Faults(SessionState):
    """Part of a session."""

    def failed(self, block: Block, graph: SharedGraph, error: Exception) -> None:
        if self.compiler.compile_apart(graph, error):
            return
        reason = self.failures.note(error, graph, self.shape, self.compiler.explain)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # what runs uncompiled next needs memory
        if reason is None:
            self.step.bypassing = True
        else:
            self.gave_up(block, reason)

    def gave_up(self, block: Block, reason: str) -> None:
        self.failures.drop_block(block, reason)
        self._stop_if_unfit()

    def rerun(self, step: Step, call: Callable[[], Any], error: Exception) -> Any:
        """Compiled code of a block that ran before failed. It may have overwritten its inputs, so the whole step runs
        again, without that graph."""
        assert step.running is not None
        self.failed(*step.running, error)
        self.publish()
        return call()

    def is_nonsense(self, step: Step, call: ModelCall, result: Any) -> bool:
        """Whether a compiled step gave NaN or Inf where the model, as far as is known, gives none, and can run again.
        Else, and where a device works behind Python and is not waited for now, `sample_again` looks at the end."""
        if not step.ran_compiled or self.during.is_not_finite:
            return False
        if not self.measuring.waited:
            self.during.unseen = True
            return False
        if all_finite(result):
            return False
        self.during.is_not_finite = not all_finite(call.x)
        self.during.unseen |= step.ran_foreign
        return not (self.during.is_not_finite or step.ran_foreign)

    def recompute(self, call: ModelCall) -> Any:
        """The result of such a step uncompiled. Unless the model itself gives that, compiled code is not used again."""
        result = call()
        self.during.is_not_finite = not all_finite(result)
        if not self.during.is_not_finite:
            self.give_up(NOT_FINITE)
        return result

    def sample_again(self, sample: Callable[[], Any], result: Any) -> Any:
        """What a sampling gives. Where steps were compiled that nobody looked at, and the end is NaN or Inf, it runs
        once more, uncompiled; processors that keep something begin anew."""
        if not self.during.unseen or self.failures.given_up is not None or all_finite(result):
            return result
        self.failures.given_up = NOT_FINITE
        for patch in self.patches:
            patch.begin_sampling()
        try:
            result = sample()
        finally:
            self.failures.given_up = None
        if all_finite(result):
            self.give_up(NOT_FINITE)
        return result
