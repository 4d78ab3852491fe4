"""A copy of a model that shares nothing that a call could change: same classes, same attributes, fake tensors.

The original is only read, so whatever happens to the copy, nothing can be left behind on the model.
"""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

#: Called before a module of the copy runs: its path, the module, positional and keyword arguments.
OnCall = Callable[[str, nn.Module, tuple, dict[str, Any]], None]

_HOOKS = frozenset(name for name in nn.Module().__dict__ if "hooks" in name)


class Fakes:
    """Fake tensors in the place of a model's: one for all of a shape, as they hold no values. ``mode`` is the one to
    run in."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._made: dict[tuple, torch.Tensor] = {}

    def of(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """A fake tensor of the same shape on the CPU, a floating one of ``dtype``."""
        if tensor is None:
            return None
        is_parameter = isinstance(tensor, nn.Parameter)
        packed = is_parameter and tensor.dtype.itemsize == 1 and tensor.dtype is not torch.bool
        dtype = self.dtype if tensor.is_floating_point() or packed else tensor.dtype
        key = (tuple(tensor.shape), dtype, is_parameter)
        if key not in self._made:
            with self.mode:
                fake = torch.empty(key[0], dtype=dtype, device="cpu")
                self._made[key] = nn.Parameter(fake, requires_grad=False) if is_parameter else fake
        return self._made[key]


def shadow(
    model: nn.Module, fakes: Fakes, on_call: OnCall, replaced: Mapping[str, nn.Module] | None = None
) -> nn.Module:
    """The copy of ``model``: its tensors are fake ones, without hooks and without patched ``forward``.

    Weights that the host would cast while it runs have the dtype of the inputs already, so it runs the plain layers.

    Args:
        on_call: called before each module runs.
        replaced: modules that stand in the place of others, by path.
    """
    copies: dict[int, nn.Module] = {}
    replaced = replaced or {}

    def copied(module: nn.Module, path: str) -> nn.Module:
        module = replaced.get(path, module)
        if id(module) in copies:
            return copies[id(module)]
        if isinstance(module, torch.jit.ScriptModule):  # its state is not in Python; it stays what it is
            return copies.setdefault(id(module), _Opaque(module, path, on_call))
        new = type(module).__new__(type(module))
        copies[id(module)] = new
        state = new.__dict__
        state.update({n: OrderedDict() if n in _HOOKS else _shallow(value) for n, value in module.__dict__.items()})
        if type(module).forward is not nn.Module.forward:
            state.pop("forward", None)  # a patch or compiled code, which knows the original only
        state["_parameters"] = {name: fakes.of(p) for name, p in module._parameters.items()}
        state["_buffers"] = {name: fakes.of(b) for name, b in module._buffers.items()}
        state["_modules"] = {
            name: None if child is None else copied(child, f"{path}.{name}" if path else name)
            for name, child in module._modules.items()
        }
        if hasattr(type(module), "comfy_cast_weights"):
            state.update(comfy_cast_weights=False, weight_function=[], bias_function=[])
        _observe(new, path, on_call)
        return new

    root = copied(model, "")
    for module in copies.values():
        _rebind(module, copies)
    return root


def _shallow(value: Any) -> Any:
    """Python containers are copied, so that what a forward writes into them does not reach the original."""
    return copy.copy(value) if isinstance(value, dict | list | set) else value


def _observe(module: nn.Module, path: str, on_call: OnCall) -> None:
    """Reports each call of a module, also where its class overrides ``__call__`` and so goes past hooks."""
    cls = type(module)
    if cls.__call__ is nn.Module.__call__:
        module.register_forward_pre_hook(lambda m, args, kwargs: on_call(path, m, args, kwargs), with_kwargs=True)
        return

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        on_call(path, self, args, kwargs)
        return cls.__call__(self, *args, **kwargs)

    module.__class__ = type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})


def _rebind(module: nn.Module, copies: dict[int, nn.Module]) -> None:
    """Attributes that hold modules or their methods, such as an instance's own ``forward``, hold those of the copy."""
    for name, value in module.__dict__.items():
        if name in ("_modules", "_parameters", "_buffers") or name in _HOOKS:
            continue
        if isinstance(value, types.MethodType) and id(value.__self__) in copies:
            module.__dict__[name] = types.MethodType(value.__func__, copies[id(value.__self__)])
        elif id(value) in copies:
            module.__dict__[name] = copies[id(value)]
        elif isinstance(value, list) and any(id(item) in copies for item in value):
            module.__dict__[name] = [copies.get(id(item), item) for item in value]


class _Opaque(nn.Module):
    """Reports the calls of a module that cannot be copied."""

    def __init__(self, module: nn.Module, path: str, on_call: OnCall):
        super().__init__()
        self._run = (module,)  # in a tuple, so that it is no child
        self._report = lambda args, kwargs: on_call(path, module, args, kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._report(args, kwargs)
        return self._run[0](*args, **kwargs)
