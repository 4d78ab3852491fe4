"""What a processor keeps between calls: on its instance, on its classes, in globals and in closures.

``prints`` tells whether something changed, ``Kept`` puts it back. What lies in C, or in an object of somebody else's
class, is not looked into."""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from ...patching.inside import attributes_of, function_in, functions_of, members_of, module_of, modules_in
from ...patching.user_errors import class_name

#: What every module has of its own. Its tensors are looked at, its hooks and children are not state.
_OWN = frozenset(nn.Module().__dict__) - {"_buffers", "_parameters"}
_NOT_THEIRS = ("torch", "builtins", "typing", "abc", "collections", "functools", "comfy", "onediff_pack", "numpy")
#: Only exact types are looked into: a class of somebody's own may do anything where it is asked.
_DICTS: tuple[type, ...] = (dict, OrderedDict, defaultdict, Counter)
_CONTAINERS: tuple[type, ...] = (list, set, deque, *_DICTS)
_TENSOR: tuple[type, ...] = (torch.Tensor, nn.Parameter, FakeTensor)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)

#: Entries of one container, containers in containers, and numbers of a NumPy array that are looked into.
MOST, DEEPEST, SMALL_ARRAY = 4096, 6, 65_536


@dataclass
class Places:
    """Where state may be: namespaces by name, each with what is looked at in it.

    ``home`` is the name of the file's module: objects of its classes are looked into, others compared by identity.
    ``foreign`` are ids of what is not the processor's own, as the site that a stand-in was given.
    """

    home: str
    spaces: dict[str, Any] = field(default_factory=dict)
    foreign: frozenset[int] = frozenset()

    def values(self) -> Iterator[tuple[str, Any]]:
        """Everything that is kept now, by name."""
        for place, space in self.spaces.items():
            for name, value in _members(space):
                if id(value) not in self.foreign:
                    yield f"{place}.{name}" if place else name, value


def _members(space: Any) -> list[tuple[str, Any]]:
    if isinstance(space, types.CellType):
        return [("", _content(space))]
    if isinstance(space, nn.Module):
        own = attributes_of(space) or {}
        found = [item for item in own.items() if item[0] not in _OWN and item[0] not in _TENSORS]
        return found + [item for name in _TENSORS for item in own.get(name, {}).items()]
    names = space if issubclass(type(space), dict) else members_of(space)
    return [(name, value) for name, value in list(names.items()) if not name.startswith("__") and _is_data(value)]


_TENSORS = ("_buffers", "_parameters")
_CODE = (types.FunctionType, types.ModuleType, type, staticmethod, classmethod, property, types.MethodType)


def _is_data(value: Any) -> bool:
    return not issubclass(type(value), _CODE)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def places_of(processor: nn.Module, foreign: frozenset[int] = frozenset()) -> Places:
    """Of an instance: its modules, and all that is outside of it."""
    found = outside(type(processor))
    found.foreign = foreign
    for path, module in modules_in(processor):
        if id(module) not in foreign:
            found.spaces[f"self.{path}" if path else "self"] = module
    return found


def outside(cls: type) -> Places:
    """Of a class, without its instances: attributes of its classes, globals that their functions name, closures,
    defaults, and attributes of functions."""
    found = Places(module_of(cls))
    waiting: list[Callable] = []
    for base in type.__dict__["__mro__"].__get__(cls):
        if base is not nn.Module and str(module_of(base) or "").partition(".")[0] not in _NOT_THEIRS:
            found.spaces[class_name(base)] = base
            waiting += functions_of(base)
    done: set[types.CodeType] = set()
    while waiting:
        function: Any = waiting.pop()
        if function.__code__ in done or function.__module__ != found.home:
            continue
        done.add(function.__code__)
        name = function.__name__
        found.spaces[f"{name}()"] = function.__dict__
        defaults = {**dict(enumerate(function.__defaults__ or ())), **(function.__kwdefaults__ or {})}
        found.spaces[f"{name} default"] = {str(k): value for k, value in defaults.items()}
        for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            found.spaces[free] = cell
            waiting += [f for f in [function_in(_content(cell))] if f is not None]
        for code in _codes(function.__code__):
            for used in code.co_names:
                value = function.__globals__.get(used)
                inner = function_in(value)
                if inner is not None:
                    waiting.append(inner)
                elif issubclass(type(value), type) and module_of(value) == found.home and used not in found.spaces:
                    found.spaces[used] = value
                    waiting += functions_of(value)
                elif used in function.__globals__ and _is_data(value):
                    found.spaces.setdefault("", _Globals(function.__globals__))[used] = value
    return found


class _Globals(dict):
    """The globals that are named, read anew each time."""

    def __init__(self, namespace: dict[str, Any]):
        super().__init__()
        self.namespace = namespace

    def items(self) -> Any:
        return [(name, self.namespace.get(name)) for name in self]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def prints(places: Places, by_value: bool = False) -> dict[str, Any]:
    """What is kept now, by name, as something that is equal for equal states.

    Args:
        by_value: tensors by what they hold, and nothing by identity, to compare two instances with each other.
    """
    return {name: _print(value, places.home, by_value, DEEPEST) for name, value in places.values()}


def _print(value: Any, home: str, by_value: bool, depth: int) -> Any:
    cls = type(value)
    if cls in _TENSOR:
        return _print_tensor(value, by_value)
    if cls in _PLAIN:
        return type(value), value if value == value else repr(value)
    if cls is getattr(sys.modules.get("numpy"), "ndarray", None) and value.size <= SMALL_ARRAY:
        return value.shape, value.dtype.str, hashlib.sha256(value.tobytes()).digest()
    if cls is torch.Generator:
        return hashlib.sha256(value.get_state().numpy().tobytes()).digest()
    if cls in (random.Random, itertools.count):
        return value.getstate() if cls is random.Random else repr(value)
    if depth and cls in _DICTS:
        entries = list(value.items())[:MOST]
        return len(value), [(_print(k, home, True, 1), _print(v, home, by_value, depth - 1)) for k, v in entries]
    if depth and cls in (list, tuple, deque):
        return len(value), [_print(one, home, by_value, depth - 1) for one in list(value)[:MOST]]
    if cls in (set, frozenset):
        plain = frozenset((type(v), v) for v in value if type(v) in _PLAIN)
        return len(value), sorted(class_name(type(v)) for v in value), hash(plain)
    number = next((base for base in (int, float, complex, str, bytes) if issubclass(cls, base)), None)
    if number is not None:  # of NumPy, or a class of somebody's own
        return id(cls), number.__repr__(value)
    own = attributes_of(value) if depth and module_of(cls) == home else None
    if own is not None:
        return [(name, _print(one, home, by_value, depth - 1)) for name, one in list(own.items())]
    return class_name(cls) if by_value else id(value)


def _print_tensor(tensor: torch.Tensor, by_value: bool) -> Any:
    form = (tuple(tensor.shape), tensor.dtype)
    if tensor.device.type == "meta" or type(tensor).__name__ == "FakeTensor" or tensor.layout is not torch.strided:
        return form
    if by_value or (tensor.numel() <= 16 and tensor.device.type == "cpu"):  # a GPU would have to be waited for
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        return *form, hashlib.sha256(raw.numpy().tobytes()).digest()
    return *form, id(tensor), None if tensor.is_inference() else tensor._version


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> frozenset[str]:
    """Names of what is not the same in two states."""
    absent = object()
    return frozenset(name for name in one.keys() | other.keys() if one.get(name, absent) != other.get(name, absent))


class Kept:
    """What places hold at one moment, to be put back later. Objects stay the same ones: what was bound is bound again,
    what was written into is written back."""

    def __init__(self, places: Places):
        self._places = places
        self._undo: list[Callable[[], Any]] = []
        self._done: set[int] = set(places.foreign)
        for space in places.spaces.values():
            self._keep_space(space)
        for _, value in places.values():
            self._keep(value, DEEPEST)

    def put_back(self) -> None:
        """Everything as it was. It can be put back again later."""
        for undo in self._undo:
            undo()

    def _keep_space(self, space: Any) -> None:
        if isinstance(space, types.CellType):
            content = _content(space)
            self._undo.append(lambda: setattr(space, "cell_contents", content))
        elif isinstance(space, _Globals):
            before = {name: space.namespace.get(name) for name in space}
            self._undo.append(lambda: space.namespace.update(before))
        elif isinstance(space, type):
            members = dict(_members(space))
            self._undo.append(lambda: _reset_class(space, members))
        elif isinstance(space, nn.Module):
            own = attributes_of(space) or {}
            for names in (own, *(own.get(name, {}) for name in _TENSORS)):
                self._refill_later(names)
        elif type(space) is dict:
            self._refill_later(space)

    def _refill_later(self, container: Any) -> None:
        content = container.copy()
        self._undo.append(lambda: _refill(container, content))

    def _keep(self, value: Any, depth: int) -> None:
        if id(value) in self._done or not depth:
            return
        cls = type(value)
        if cls in _TENSOR:
            self._done.add(id(value))
            if value.device.type != "meta" and value.layout is torch.strided:
                content = value.detach().clone()
                version = None if value.is_inference() else value._version
                self._undo.append(lambda: _rewrite(value, content, version))
        elif cls in _CONTAINERS:
            self._done.add(id(value))
            self._refill_later(value)
            inside = [*value.values()] if cls in _DICTS else [*value]
            for one in inside[:MOST]:
                self._keep(one, depth - 1)
        elif cls is tuple:
            for one in value:
                self._keep(one, depth - 1)
        elif cls is torch.Generator:
            state = value.get_state()
            self._undo.append(functools.partial(value.set_state, state))
        elif cls is random.Random:
            numbers = value.getstate()
            self._undo.append(lambda: value.setstate(numbers))
        elif module_of(cls) == self._places.home and (own := attributes_of(value)) is not None:
            self._done.add(id(value))
            self._refill_later(own)
            for one in list(own.values()):
                self._keep(one, depth - 1)


def _reset_class(cls: type, members: dict[str, Any]) -> None:
    now = dict(_members(cls))
    for name in now.keys() - members.keys():
        type.__delattr__(cls, name)
    for name, value in members.items():
        if now.get(name, cls) is not value:
            type.__setattr__(cls, name, value)


def _refill(container: Any, content: Any) -> None:
    now: list[Any]
    then: list[Any]
    if type(container) in _DICTS:
        now, then = ([(id(k), id(v)) for k, v in one.items()] for one in (container, content))
    elif type(container) is set:
        now, then = (sorted(map(id, one)) for one in (container, content))
    else:
        now, then = ([id(v) for v in one] for one in (container, content))
    if now != then:
        container.clear()
        container.extend(content) if type(container) in (list, deque) else container.update(content)


def _rewrite(tensor: torch.Tensor, content: torch.Tensor, version: int | None) -> None:
    if version is None or tensor._version != version:
        with torch.inference_mode():
            tensor.copy_(content)
