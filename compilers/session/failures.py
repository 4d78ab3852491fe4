"""What failed in a session, and what runs uncompiled because of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import nn

from ..backends.errors_in_words import is_out_of_memory
from ..backends.protocol import Failure
from ..blocks.shared_graph import SharedGraph
from ..measuring.block import Block
from ..measuring.step_measuring import Measuring

log = logging.getLogger(__name__)

#: Why a sampling runs uncompiled that another node changed.
_WHOLE_MODEL = "another node compiles the whole model (TorchCompileModel): remove one of the two."
_SEVERAL_GPUS = "ComfyUI runs this model on several GPUs, which this version does not support."

#: Why calls of one size run uncompiled.
_TOO_LARGE = "compiled code ran out of memory at this size."
_NOT_COMPARED = "there was not enough memory to compare both ways."

#: Samplings in which something may fail for a reason that passes, until that is taken for one that lasts.
MOST_TRIES = 3

#: A failure in words: ``Backend.explain``.
Explain = Callable[[Exception], Failure]


class Failures:
    """Failures by what they concern: the whole model (``given_up`` says why), all blocks of a graph (``graphs``), one
    block (its ``reason``), or steps of one shape: compiled ones ran out of memory (``too_large``), or there was none
    for running them both ways (``not_compared``)."""

    def __init__(self) -> None:
        self.given_up: str | None = None
        self.graphs: dict[SharedGraph, str] = {}
        self.breaks: list[dict[str, str]] = []
        self.too_large: set[Hashable] = set()
        self.not_compared: set[Hashable] = set()
        self._passing: set[SharedGraph] = set()  # failed for a reason that may be gone at the next sampling
        self._dropped: list[Block] = []  # for such a reason
        self._tries = 0

    def forget(self) -> None:
        """Gives everything a new chance."""
        self.given_up = None
        self.graphs.clear()
        self.breaks.clear()
        self.too_large.clear()
        self.not_compared.clear()
        self._passing.clear()
        self._dropped.clear()
        self._tries = 0

    def begin_sampling(self) -> None:
        """What another node did to the model before is not known of this sampling, and what failed for a reason that
        may have passed is tried again."""
        self._tries += bool(self._passing)
        reasons = self._passing_reasons()
        if self.given_up is not None and any(reason in self.given_up for reason in reasons):
            self.given_up = None
        for graph in self._passing:
            self.graphs.pop(graph, None)
        for block in self._dropped:
            block.reason = None
        self._passing.clear()
        self._dropped.clear()
        if self.given_up in (_WHOLE_MODEL, _SEVERAL_GPUS):
            self.given_up = None

    def note(self, error: Exception, graph: SharedGraph, shape: Hashable, explain: Explain) -> str | None:
        """Notes that compiling a graph or running it raised. Returns why its blocks run uncompiled from now on; None
        after running out of memory, which concerns only steps of this shape."""
        if is_out_of_memory(error):
            self.too_large.add(shape)
            return None
        failure = explain(error)
        self.graphs[graph] = failure.reason
        if failure.passing and self._tries < MOST_TRIES:
            self._passing.add(graph)
        if failure.graph_break is not None:
            self.breaks.append(failure.graph_break)
        return failure.reason

    def drop_block(self, block: Block, reason: str) -> None:
        """A block runs uncompiled from now on."""
        block.reason = reason
        if reason in self._passing_reasons():
            self._dropped.append(block)
        log.warning("OneDiff: %s runs uncompiled: %s", block.path, reason)

    def _passing_reasons(self) -> set[str]:
        return {self.graphs[graph] for graph in self._passing if graph in self.graphs}

    def concerning(self, shape: Hashable) -> str | None:
        """Why steps of this shape run uncompiled as a whole, None when they do not."""
        if self.given_up is not None:
            return self.given_up
        if shape in self.too_large:
            return _TOO_LARGE
        return _NOT_COMPARED if shape in self.not_compared else None

    def first(self, blocks: Sequence[Block]) -> str | None:
        """The first reason why not everything is compiled, for a user who wants to stop then."""
        broken = next((block for block in blocks if block.reason), None)
        return self.given_up or (f"{broken.path} cannot be compiled: {broken.reason}" if broken else None)


def taken_over(model: nn.Module, wrappers: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
    """Why a sampling runs uncompiled that somebody else computes in a way of their own, None when nobody does."""
    if "torch.compile" in wrappers or hasattr(model, "_orig_mod"):
        return _WHOLE_MODEL
    return _SEVERAL_GPUS if "multigpu_thread_device" in options else None


def leave_out(blocks: Sequence[Block], holds_operators: bool) -> None:
    """Blocks that a backend cannot compile because its graphs hold no operators."""
    for block in blocks:
        block.reason = block.reason or (None if holds_operators else block.without_operators)


def common_reason(blocks: Sequence[Block]) -> str | None:
    """Why no block at all can be compiled, None when some can."""
    reasons = [block.reason for block in blocks if block.reason]
    if not reasons or len(reasons) < len(blocks):
        return None
    return reasons[0] if len(set(reasons)) == 1 else f"no block could be compiled: {reasons[0]}"


class ModelUnfit(RuntimeError):
    """Raised where the user asked to stop rather than run uncompiled. ``node`` is its id, ``reason`` says why."""

    def __init__(self, node: str, reason: str, title: str = "OneDiff Compile"):
        super().__init__(
            f"{title} (node {node}): {reason} Set “if it cannot compile” to “run uncompiled” to go on without."
        )
        self.node = node
        self.reason = reason


def why_uncompiled(failures: Failures, measuring: Measuring, blocks: Sequence[Block]) -> str | None:
    """Why steps like the last one run uncompiled as a whole, None when they do not.

    Args:
        blocks: those that the model calls.
    """
    failed = failures.concerning(measuring.shape)
    if failed is not None:
        return failed
    if gain_nothing(blocks):
        return _no_gain(blocks)
    if measuring.is_slow:
        return measuring.why_uncompiled
    if not blocks or not all(block.uncompiled_because for block in blocks):
        return None
    return _reason_of_most(blocks)


def _reason_of_most(blocks: Sequence[Block]) -> str | None:
    """Why blocks that all run uncompiled do so: what another node put on them, which can be taken away; else what keeps
    back those that take most of a step. Each one's own reason is listed."""
    without_gain = [block for block in blocks if block.left_for_no_gain]
    others = [block for block in blocks if not block.left_for_no_gain]
    for block in others:
        if block.skipped and not block.reason:
            return block.skipped
    if sum(block.weight for block in without_gain) > sum(block.weight for block in others):
        return _no_gain(without_gain)
    return others[0].reason


def gain_nothing(blocks: Sequence[Block]) -> bool:
    """Whether all blocks run uncompiled because their classes gain nothing."""
    return bool(blocks) and all(block.left_for_no_gain for block in blocks)


def _no_gain(blocks: Sequence[Block]) -> str:
    """Why nothing is compiled: what is known of the heaviest block, and how much compiling that saved. What an earlier
    run found holds: then no kind is compiled at all."""
    heaviest = max(blocks, key=lambda block: block.weight)
    kinds, compiled = kinds_of(blocks)
    if compiled:
        left = f"{kinds - compiled} of {kinds} kinds of block were not compiled. " if compiled < kinds else ""
        return f"no gain: {left}{heaviest.gain.reason}"
    if any(block.gain.timed for block in blocks):
        return f"no gain: nothing more was compiled, as an earlier run timed it. {heaviest.gain.reason}"
    return f"no gain: nothing was compiled. {heaviest.gain.reason}"


def kinds_of(blocks: Sequence[Block]) -> tuple[int, int]:
    """How many kinds of block there are, and of how many there is a graph."""
    kinds = {block.signature for block in blocks}
    compiled = {block.signature for block in blocks if any(graph.graphs for graph in block.graphs.values())}
    return len(kinds), len(compiled)
