"""Copies of modules with other tensors, so that a trial changes nothing on the modules themselves."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

#: Makes the tensor that takes another one's place; its dtype and device may differ, its shape does not.
Make = Callable[[torch.Tensor], torch.Tensor]

#: What every module has of its own: parameters, buffers, children, hooks.
_OWN = frozenset(nn.Module().__dict__) - {"training"}


def stand_in(module: nn.Module, make: Make, instead: Mapping[int, nn.Module] | None = None) -> nn.Module:
    """The module once more: same class and attributes, its tensors made by ``make``, without its hooks.

    Host classes of nn.Linear that cast weights or carry patches become plain ones. Lists, dicts and sets are copied, so
    what a forward notes there is noted in the copy. A scripted module is copied as it is. ``instead`` has modules that
    take the place of others, by those others' ids.
    """
    return _copied(module, make, dict(instead or {}))


def _copied(module: nn.Module, make: Make, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) in done:
        return done[id(module)]
    if isinstance(module, torch.jit.ScriptModule):
        return done.setdefault(id(module), copy.deepcopy(module))
    cls = nn.Linear if isinstance(module, nn.Linear) and type(module).__name__ == "Linear" else type(module)
    new = done[id(module)] = cls.__new__(cls)
    nn.Module.__init__(new)
    for name, value in module.__dict__.items():
        if name not in _OWN:
            new.__dict__[name] = _attribute(value, module, new, make)
    for name, parameter in module._parameters.items():
        made = None if parameter is None else nn.Parameter(make(parameter), requires_grad=False)
        new._parameters[name] = made
    for name, buffer in module._buffers.items():
        new._buffers[name] = None if buffer is None else make(buffer)
    for name, child in module._modules.items():
        new._modules[name] = None if child is None else _copied(child, make, done)
    return new


def _attribute(value: Any, module: nn.Module, new: nn.Module, make: Make) -> Any:
    if isinstance(value, types.MethodType) and value.__self__ is module:
        return types.MethodType(value.__func__, new)
    if isinstance(value, torch.Tensor):
        return make(value)
    return copy.copy(value) if type(value) in (list, dict, set) else value


def random_weight(shape: torch.Size, dtype: torch.dtype, generator: torch.Generator | None = None) -> torch.Tensor:
    """A weight that keeps the variance of what it is multiplied with: numbers in random order would take ten times as
    long, and a site of SDXL has six million of them."""
    row = (_numbers() * (3 / (shape[-1] if shape else 1)) ** 0.5).to(dtype)
    start = int(torch.randint(len(row), (), generator=generator))
    return row.repeat(shape.numel() // len(row) + 2)[start : start + shape.numel()].view(shape)


@functools.cache
def _numbers() -> torch.Tensor:
    """Uniform in [-1, 1). Their number is prime: rows of no width begin alike."""
    return torch.empty(65_537).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
