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
        self._inner = [(name, module) for name, module in block.named_modules() if name]
        self._states = [module.__dict__ for _, module in self._inner]
        self._block, self._own = block, block.__dict__
        self._classes = tuple(dict.fromkeys(type(module) for module in block.modules()))
        self._hooks: list[dict] = []
        self.look()

    def look(self) -> tuple[Callable, ...]:
        """The ``functions`` at the beginning of a step, for which it is noted where hooks are: PyTorch puts a new one
        into the dict that is there."""
        states = (self._own, *self._states)
        self._hooks = [state[kind] for state in states for kind in ("_forward_hooks", "_forward_pre_hooks")]
        return self.functions()

    def functions(self) -> tuple[Callable, ...]:
        """The functions behind forwards that were set on modules inside the block."""
        forwards = [state["forward"] for state in self._states if "forward" in state]
        return tuple([getattr(forward, "__func__", forward) for forward in forwards])

    def hindrance(self, forward: Callable, inside: tuple[Callable, ...]) -> str | None:
        """Why the block must run uncompiled, None when nothing stands in the way. ``forward`` is its own of now,
        ``inside`` are the ``functions`` in it."""
        if any(self._hooks):
            if _is_hooked(self._block):
                return "another node put a hook on it."
            for name, module in self._inner:
                if _is_hooked(module):
                    return f"another node put a hook on it at {name}."
        if getattr(forward, "__self__", None) is not self._block:
            return "another node replaced its forward with something that is not a method of it."
        if keeps_state(forward):
            return KEEPS_STATE
        for name, module in self._inner if inside else ():
            own = module.__dict__.get("forward")
            if own is not None and getattr(own, "__self__", None) is not module:
                return f"another node replaced the forward at {name} with something that is not a method of it."
            if own is not None and keeps_state(own):
                return KEEPS_STATE
        return None

    def class_forwards(self) -> tuple[Callable, ...]:
        """The forwards of the classes in the block. Dynamo takes for granted that nobody replaces them."""
        return tuple(cls.forward for cls in self._classes)


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
