"""What the module of a site is before somebody's ``__init__`` is handed it, to be put back afterwards."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..sites.find import Site

#: Looked into; others, and classes made from these, count as one object.
_CONTAINERS: tuple[type, ...] = (dict, OrderedDict, list, set, deque)
_PLAIN: tuple[type, ...] = (bool, int, float, str, bytes, type(None))
#: Containers in containers that are looked into.
_DEEPEST = 4


class Layout:
    """Modules, hooks, modes, weights and classes of a site at one moment.

    Args:
        contents: whether weights are copied, so that a write into one is undone.
    """

    def __init__(self, site: Site, contents: bool):
        self._contents = contents
        #: Each says whether it had to put something back.
        self._back: list[Callable[[], bool]] = []
        self._done: set[int] = set()
        for module in list(site.module.modules()):
            self._keep_module(module)

    def put_back(self) -> bool:
        """Everything as it was; whether ``__init__`` had changed anything."""
        return any([back() for back in self._back])

    def _keep_module(self, module: nn.Module) -> None:
        cls, training = type(module), module.training
        self._back.append(lambda: _class_back(module, cls))
        own = module.__dict__
        self._back.append(lambda: _mode_back(own, training))
        self._keep(own, _DEEPEST)
        for base in cls.__mro__[:-1]:
            if id(base) not in self._done:
                self._done.add(id(base))
                self._back.append(functools.partial(_members_back, base, dict(vars(base))))
        for tensor in (*own["_parameters"].values(), *own["_buffers"].values()):
            if type(tensor) in (torch.Tensor, nn.Parameter) and id(tensor) not in self._done:
                self._done.add(id(tensor))
                self._keep_tensor(tensor)

    def _keep(self, container: Any, depth: int) -> None:
        if id(container) in self._done or not depth:
            return
        self._done.add(id(container))
        content = container.copy()
        self._back.append(lambda: _content_back(container, content))
        for value in list(content.values()) if issubclass(type(content), dict) else list(content):
            if type(value) in _CONTAINERS:
                self._keep(value, depth - 1)

    def _keep_tensor(self, tensor: torch.Tensor) -> None:
        data, form, needs_grad = tensor.data, _form(tensor), tensor.requires_grad
        copied = self._contents and tensor.device.type != "meta" and tensor.layout is torch.strided
        content = data.clone() if copied else None

        def back() -> bool:
            moved = _form(tensor) != form
            if moved:
                tensor.data = data
            written = False
            if content is not None and not torch.equal(_raw(data), _raw(content)):
                written = True
                with torch.inference_mode():
                    data.copy_(content)
            if tensor.requires_grad != needs_grad:  # what self.requires_grad_(False) does to the layers, too
                with contextlib.suppress(RuntimeError):
                    tensor.requires_grad = needs_grad
            return moved or written

        self._back.append(back)


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    place = tensor.data_ptr() if tensor.layout is torch.strided else None
    return tensor.dtype, tensor.device, tensor.shape, place


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    """As bytes, since NaN is not equal to itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _class_back(module: nn.Module, cls: type) -> bool:
    changed = type(module) is not cls
    if changed:
        object.__setattr__(module, "__class__", cls)
    return changed


def _mode_back(own: dict[str, Any], training: bool) -> bool:
    """``self.eval()`` reaches the layers, and is no fault."""
    now, own["training"] = own.get("training"), training
    return bool(now) and not training


def _members_back(cls: type, members: dict[str, Any]) -> bool:
    changed = False
    now = dict(vars(cls))
    for name in now.keys() | members.keys():
        if now.get(name, cls) is members.get(name, cls):
            continue
        if name not in members and name.startswith("__") and not callable(now[name]):
            continue  # Python keeps something there, as __slotnames__ for a copy
        changed = True
        if name in members:
            type.__setattr__(cls, name, members[name])
        else:
            type.__delattr__(cls, name)
    return changed


def _content_back(container: Any, content: Any) -> bool:
    changed = _marks(container) != _marks(content)
    if changed:
        container.clear()
        container.extend(content) if type(container) in (list, deque) else container.update(content)
    return changed


def _marks(container: Any) -> Any:
    """Equal for equal contents, without asking anybody's ``__eq__``."""
    if issubclass(type(container), dict):
        return {_mark(key): _mark(value) for key, value in container.items()}
    return set(map(_mark, container)) if type(container) is set else list(map(_mark, container))


def _mark(value: Any) -> Any:
    return (type(value), value) if type(value) in _PLAIN else id(value)
