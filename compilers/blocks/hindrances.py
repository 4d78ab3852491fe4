"""What is on a block's modules now that its compiled code would ignore."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import nn
from torch.nn.modules import module as modules

from ...memo import cached
from ...processors.overriding import keeps_state

#: A compiled block is also run uncompiled, to be compared with that; such a processor is called once a step.
KEEPS_STATE = "its processor keeps something between calls, so it is called exactly once a step."


class BlockState:
    """Looked at before each run of a block: other nodes may set hooks and forwards, and put other modules in, in the
    middle of a sampling."""

    def __init__(self, block: nn.Module):
        self._inner = [(name, module) for name, module in block.named_modules() if name]
        self._states = [module.__dict__ for _, module in self._inner]
        self._block = block
        self._classes = tuple(dict.fromkeys(type(module) for module in block.modules()))
        self._of_classes = [(cls, name) for cls in self._classes for name in ("forward", "__call__", *_called_by(cls))]
        self._of_modules = [
            (number, module, name) for number, module in enumerate(block.modules()) for name in _called_by(type(module))
        ]
        self._children = [(one._modules, [*one._modules.values()]) for one in block.modules() if one._modules]
        self._odd: list[dict[str, Any]] = []

    @property
    def is_other(self) -> bool:
        """Whether other modules are in the block than when this was made."""
        return any([[*children.values()] != known for children, known in self._children])

    def look(self) -> tuple[Callable, ...]:
        """Looks at the modules inside the block, all of them in one go. Returns the functions behind forwards that were
        set on them."""
        self._odd = [
            state
            for state in self._states
            if "forward" in state or state["_forward_hooks"] or state["_forward_pre_hooks"]
        ]
        forwards = [state["forward"] for state in self._odd if "forward" in state]
        return tuple([getattr(forward, "__func__", forward) for forward in forwards])

    def hindrance(self, forward: Callable) -> str | None:
        """Why the block must run uncompiled, as it was when it was looked at; None when nothing stands in the way.
        ``forward`` is its own."""
        if any(_ON_ALL):
            return "another node put a hook on all modules."
        if _is_hooked(self._block):
            return "another node put a hook on it."
        if getattr(forward, "__self__", None) is not self._block:
            return "another node replaced its forward with something that is not a method of it."
        if keeps_state(forward):
            return KEEPS_STATE
        for _, name, own, module in self._set_over():
            if getattr(own, "__self__", module) is not module:
                return f"another node replaced {name} in it with something that is not a method of it."
        return self._inside() if self._odd else None

    def _inside(self) -> str | None:
        for name, module in self._inner:
            if _is_hooked(module):
                return f"another node put a hook on it at {name}."
            own = module.__dict__.get("forward")
            if own is not None and getattr(own, "__self__", None) is not module:
                return f"another node replaced the forward at {name} with something that is not a method of it."
            if own is not None and keeps_state(own):
                return KEEPS_STATE
        return None

    def methods(self) -> Methods:
        """What runs below the forwards: methods of the classes in the block, and, each with its place, what was set on
        a module over one of them, as seamless tiling sets ``_conv_forward``. Dynamo takes for granted that nobody
        replaces the first, and may mistake one of the second for another."""
        return (
            tuple([getattr(cls, name) for cls, name in self._of_classes]),
            tuple([(number, name, getattr(own, "__func__", own)) for number, name, own, _ in self._set_over()]),
        )

    def _set_over(self) -> list[tuple[int, str, Any, nn.Module]]:
        return [
            (number, name, module.__dict__[name], module)
            for number, module, name in self._of_modules
            if name in module.__dict__
        ]


Methods = tuple[tuple[Callable, ...], tuple[tuple[int, str, Any], ...]]
"""Of classes, and set on modules."""


@cached
def _called_by(cls: type[nn.Module]) -> tuple[str, ...]:
    """The methods of a class, besides ``forward``, that its forward calls, or those do: "_conv_forward"."""
    found: dict[str, None] = {}
    waiting = [vars(base)["forward"] for base in cls.__mro__ if "forward" in vars(base) and base is not nn.Module]
    while waiting:
        code = getattr(waiting.pop(), "__code__", None)
        for name in () if code is None else code.co_names:
            method = getattr(cls, name, None)
            if name == "forward" or name in found or not isinstance(method, FunctionType) or hasattr(nn.Module, name):
                continue
            found[name] = None
            waiting.append(method)
    return tuple(found)


#: Where PyTorch keeps hooks that are called for every module.
_ON_ALL = (modules._global_forward_hooks, modules._global_forward_pre_hooks)


def _is_hooked(module: nn.Module) -> bool:
    state = module.__dict__
    return bool(state["_forward_hooks"] or state["_forward_pre_hooks"])
