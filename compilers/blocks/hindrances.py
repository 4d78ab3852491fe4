"""What is on a block's modules now that its compiled code would ignore."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


class BlockState:
    """Looked at before each run of a block: other nodes may set hooks and forwards in the middle of a sampling."""

    def __init__(self, block: nn.Module):
        self._inner = [(name, module, module.__dict__) for name, module in block.named_modules() if name]
        self._own = block.__dict__
        self._classes = tuple(dict.fromkeys(type(module) for module in block.modules()))

    def hindrance(self) -> str | None:
        """Why the block must run uncompiled, None when nothing stands in the way."""
        if self._own["_forward_hooks"] or self._own["_forward_pre_hooks"]:
            return "another node put a hook on it."
        for name, module, state in self._inner:
            if state["_forward_hooks"] or state["_forward_pre_hooks"]:
                return f"another node put a hook on it at {name}."
            if "forward" in state and getattr(state["forward"], "__self__", None) is not module:
                return f"another node replaced the forward at {name} with something that is not a method of it."
        return None

    def functions(self) -> tuple[Callable, ...]:
        """The functions behind forwards that were set on modules inside the block."""
        return tuple(
            getattr(state["forward"], "__func__", state["forward"]) for _, _, state in self._inner if "forward" in state
        )

    def class_forwards(self) -> tuple[Callable, ...]:
        """The forwards of the classes in the block. Dynamo takes for granted that nobody replaces them."""
        return tuple(cls.forward for cls in self._classes)
