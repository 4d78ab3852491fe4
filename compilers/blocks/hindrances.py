"""What is on a block's modules now that its compiled code would ignore."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ...processors.overriding import keeps_state

#: A compiled block is also run uncompiled, to be compared with that; such a processor is called once a step.
KEEPS_STATE = "its processor keeps something between calls, so it is called exactly once a step."


class BlockState:
    """Looked at before each run of a block: other nodes may set hooks and forwards in the middle of a sampling."""

    def __init__(self, block: nn.Module):
        self._inner = [(name, module, module.__dict__) for name, module in block.named_modules() if name]
        self._block, self._own = block, block.__dict__
        self._classes = tuple(dict.fromkeys(type(module) for module in block.modules()))

    def hindrance(self, forward: Callable) -> str | None:
        """Why the block must run uncompiled, None when nothing stands in the way. ``forward`` is its own of now."""
        if self._own["_forward_hooks"] or self._own["_forward_pre_hooks"]:
            return "another node put a hook on it."
        if getattr(forward, "__self__", None) is not self._block:
            return "another node replaced its forward with something that is not a method of it."
        if keeps_state(forward):
            return KEEPS_STATE
        for name, module, state in self._inner:
            if state["_forward_hooks"] or state["_forward_pre_hooks"]:
                return f"another node put a hook on it at {name}."
            if "forward" in state and getattr(state["forward"], "__self__", None) is not module:
                return f"another node replaced the forward at {name} with something that is not a method of it."
            if "forward" in state and keeps_state(state["forward"]):
                return KEEPS_STATE
        return None

    def functions(self) -> tuple[Callable, ...]:
        """The functions behind forwards that were set on modules inside the block."""
        return tuple(
            getattr(state["forward"], "__func__", state["forward"]) for _, _, state in self._inner if "forward" in state
        )

    def class_forwards(self) -> tuple[Callable, ...]:
        """The forwards of the classes in the block. Dynamo takes for granted that nobody replaces them."""
        return tuple(cls.forward for cls in self._classes)
