"""What modules hold, read so that none of their code runs: ``named_parameters`` may be a person's own."""

from __future__ import annotations

import functools
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn


def modules_in(module: nn.Module, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """As ``nn.Module.named_modules``."""
    if issubclass(type(module), torch.jit.ScriptModule):  # it keeps them in C++
        yield from module.named_modules(prefix=path)
        return
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    for name, child in _held(module, "_modules"):
        if issubclass(type(child), nn.Module):
            yield from modules_in(child, f"{path}.{name}" if path else str(name), seen)


def tensors_in(module: nn.Module, but: Collection[int] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, then buffers, each once; without modules and tensors of these ids."""
    if issubclass(type(module), torch.jit.ScriptModule):
        yield from (*module.named_parameters(), *module.named_buffers())
        return
    seen = set(but)
    modules = list(modules_in(module, seen=set(but)))
    for kind in ("_parameters", "_buffers"):
        for path, part in modules:
            for name, tensor in _held(part, kind):
                if issubclass(type(tensor), torch.Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{path}.{name}" if path else str(name), tensor


#: What Python's own decorators make of a function.
_WRAPPED: tuple[type, ...] = (
    staticmethod, classmethod, types.MethodType, property, functools.cached_property, functools.partial,
    functools.partialmethod, functools.singledispatchmethod,
)  # fmt: skip


def function_in(value: Any) -> types.FunctionType | None:
    """The Python function in a member of a class, under its decorators."""
    for name in ("__func__", "fget", "func"):
        value = getattr(value, name, value) if type(value) in _WRAPPED else value
    return value if type(value) is types.FunctionType else None


def functions_of(cls: type) -> list[types.FunctionType]:
    """Those that a class defines itself."""
    return [found for value in list(members_of(cls).values()) if (found := function_in(value)) is not None]


def members_of(cls: type) -> Mapping[str, Any]:
    """A class's own, whatever its metaclass does."""
    return type.__dict__["__dict__"].__get__(cls)


def module_of(cls: type) -> Any:
    """The name of a class's module, whatever its metaclass does."""
    return members_of(cls).get("__module__")


def attributes_of(value: Any) -> dict[str, Any] | None:
    """What is kept on an object. Its class may have a ``__dict__`` of its own, which is not asked."""
    for base in reversed(type.__dict__["__mro__"].__get__(type(value))):
        found = members_of(base).get("__dict__")
        if type(found) is types.GetSetDescriptorType and base is not type:
            own = found.__get__(value)
            return own if type(own) is dict else None
    return None


def _held(module: nn.Module, kind: str) -> list[tuple[Any, Any]]:
    own = vars(nn.Module)["__dict__"].__get__(module)
    held = own.get(kind)
    return list(dict.items(held)) if issubclass(type(held), dict) else []
