"""What takes the place of a block's forward in one step, where blocks may be handed lists or dictionaries that they
change."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from ..one_block.block_runner import BlockRunner
from ..step import Step
from .lists import Lists, dictionaries_in, lists_in


def bound(runner: BlockRunner, step: Step, lists: Lists) -> tuple[nn.Module, Callable]:
    """A block's module, and what takes the place of its forward in this step. ``lists`` is what is known of those that
    it is handed."""
    _, run = runner.bind(step)

    def forward(*args: Any, **kwargs: Any) -> Any:
        inputs = (args, kwargs)
        if not lists_in(inputs) and not dictionaries_in(inputs):
            return run(*args, **kwargs)
        runner.block.takes_lists |= bool(lists_in(inputs))
        if step.watching or not lists.knows(inputs):
            return lists.watched(partial(_uncompiled, runner, step), inputs)
        if step.bypassing or runner.block.reason is not None:
            return run(*args, **kwargs)
        if lists.unfit is not None:
            runner.block.reason = lists.unfit
            return run(*args, **kwargs)
        return lists.alone(run, inputs)

    return runner.bind_around(forward)


def _uncompiled(runner: BlockRunner, step: Step, *args: Any, **kwargs: Any) -> Any:
    """A run of a block that is watched; in a step that is not, it is compiled the next time."""
    if step.watching:
        return runner.run(*args, **kwargs)
    step.dirty = step.ran_block = runner.block.ran = True
    return runner.run_uncompiled((args, kwargs))
