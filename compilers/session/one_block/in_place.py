"""What takes the place of a block's ``forward`` in a step, whatever other nodes set there meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ....patching.calls import Inputs
from ...measuring.block import Block
from ..step import Step


class InPlace:
    """A node may set another forward in the middle of a step, and go on from there to the one that it found, which is
    `run`; in later steps too. It may put that back after the sampling."""

    def __init__(self, block: Block):
        self.block = block
        self._step: Step | None = None
        self._forward: Callable = block.module.forward
        self._taken: Callable | None = None  # what stood here when another one was set in a step
        self._placed: Callable | None = None
        self._runs = False

    def find(self) -> None:
        """Notes the forward that is there before a step."""
        module = self.block.module
        if getattr(module.__dict__.get("forward"), "__func__", None) is InPlace.run:
            del module.__dict__["forward"]  # put back
            self._taken = None
        self._forward = module.forward

    def bind(self, step: Step) -> tuple[nn.Module, Callable]:
        """The block's module, and what takes the place of its forward in this step."""
        self._step, self._placed = step, self.run
        return self.block.module, self._placed

    def bind_around(self, forward: Callable) -> tuple[nn.Module, Callable]:
        """The same, where something around `run` takes the place."""
        self._placed = forward
        return self.block.module, forward

    def unbind(self) -> None:
        """The step is over."""
        self._step = None
        if self._taken is None and self.block.module.__dict__.get("forward", self._forward) is not self._forward:
            self._taken = self._forward

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The block's forward; for a node that has set another one, what that had found."""
        step, block = self._step, self.block
        if step is None or self._runs or block.module.__dict__.get("forward") is not self._placed:
            if step is not None:
                step.ran_block = block.ran = block.called = True
            return (self._taken or self._forward)(*args, **kwargs)
        self._runs = True
        try:
            return self.run_in(step, (args, kwargs))
        finally:
            self._runs = False

    def run_in(self, step: Step, original: Inputs) -> Any:
        """Runs the block in a step."""
        raise NotImplementedError
