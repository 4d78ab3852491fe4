"""Which modules a model calls, found out by calling it.

The model's forward runs once on fake tensors, on a copy that has no weights (``shadow``): an SDXL UNet takes about a
second and no memory. What the inputs look like is the caller's knowledge, except their widths: an input whose width
nobody knows gets a made-up one that no layer has, and the layer that refuses it tells the right one.
"""

from __future__ import annotations

import itertools
import logging
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .shadow import Fakes, shadow

#: Tells what a model calls, given the paths of modules that cannot run.
FindReach = Callable[[Collection[str]], "Reach"]

#: Calls a copy of a model as the host would. The second argument tells the width of an input by any name.
ExampleCall = Callable[[nn.Module, "Width"], Any]


class Width(Protocol):
    """Tells the width of an input by any name; ``likely`` is used unless a layer refuses it."""

    def __call__(self, name: str, likely: int | None = None) -> int: ...


#: Corrections of widths before the search is given up: one an input, and one more where inputs are joined.
MAX_ATTEMPTS = 16

#: Made-up widths: far apart, and far from what a layer has, so a multiple or a sum still tells where it came from.
_FIRST_DYE, _DYE_STEP = 1_000_003, 2_000_014
_MOST_ADDED = 16_384


@dataclass(frozen=True)
class TensorSpec:
    """What a module got as an argument: shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class ModuleCall:
    """The arguments of one call: tensors as ``TensorSpec``, None and plain values as they are, others by their class's
    name."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Reach:
    """What was called. ``reason`` says why the model could not be called to its end, None when it could; then a module
    that is not in ``called`` is not called with inputs like these. ``guessed`` tells that a branch depended on values,
    which fake tensors do not have, so another branch may call more. ``calls`` holds the distinct calls of the modules
    that were asked for."""

    called: frozenset[str] = frozenset()
    calls: Mapping[str, tuple[ModuleCall, ...]] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None
    guessed: bool = False

    def below(self, prefix: str) -> Reach:
        """The same for one part of the model: paths start at the part."""
        start = f"{prefix}."
        return replace(
            self,
            called=frozenset(path.removeprefix(start) for path in self.called if path.startswith(start)),
            calls={path.removeprefix(start): calls for path, calls in self.calls.items() if path.startswith(start)},
        )

    @property
    def complete(self) -> bool:
        """True when the run came to its end and no branch was guessed."""
        return self.reason is None and not self.guessed


def reach(
    model: nn.Module,
    calls: Sequence[ExampleCall],
    *,
    dtype: torch.dtype = torch.float32,
    replaced: Mapping[str, nn.Module] | None = None,
    stand_ins: Collection[str] = (),
    watch: Collection[str] = (),
) -> Reach:
    """Calls a copy of ``model`` on fake tensors and tells which modules ran. Never raises, and leaves nothing behind.

    Args:
        calls: ways to run the copy, tried in turn until one comes to its end; what they create becomes fake too.
        dtype: what the model computes in; the weights of the copy have it.
        replaced: modules that stand in the place of others, by path.
        stand_ins: paths of modules that cannot run; when called they give their first tensor back.
        watch: paths of modules whose arguments are wanted.
    """
    fakes = Fakes(dtype)
    result = Reach(reason="there is no example of its inputs.")
    for call in calls:
        result = _search(model, call, fakes, replaced or {}, stand_ins, watch)
        if result.reason is None:
            break
    return result


def _search(
    model: nn.Module,
    call: ExampleCall,
    fakes: Fakes,
    replaced: Mapping[str, nn.Module],
    stand_ins: Collection[str],
    watch: Collection[str],
) -> Reach:
    """Runs the model again and again, each time with one more width right."""
    known: dict[str, int] = {}
    trust_likely = True
    result = Reach(reason="the widths of its inputs could not be found.")
    for _ in range(MAX_ATTEMPTS):
        observer = _Observer(watch, known, trust_likely)
        try:
            result = _attempt(model, call, observer, fakes, replaced, stand_ins)
        except _WrongWidth as wrong:
            known[wrong.name] = wrong.width
            continue
        if observer.wrong is None or not observer.likely:
            return result
        known, trust_likely = {}, False
    return result


def _attempt(
    model: nn.Module,
    call: ExampleCall,
    observer: _Observer,
    fakes: Fakes,
    replaced: Mapping[str, nn.Module],
    stand_ins: Collection[str],
) -> Reach:
    reason: str | None = None
    values = _Values(observer)
    state = random.getstate()
    try:
        with _quiet(), torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy = shadow(model, fakes, observer, replaced)
            for path in stand_ins:
                module = copy.get_submodule(path)
                if type(module).__call__ is nn.Module.__call__:  # else it does its work there
                    module.__dict__["forward"] = _first_tensor
            with fakes.mode, values:
                call(copy, observer.width)
    except _WrongWidth:
        raise
    except Exception as error:  # whatever a model raises, the answer is "no, because"
        observer.read(str(error))
        reason = observer.wrong or f"{type(error).__name__}: {_first_line(error)}"
    finally:
        random.setstate(state)
    return Reach(
        called=frozenset(observer.called),
        calls={path: tuple(calls) for path, calls in observer.calls.items()},
        widths=dict(observer.widths),
        reason=reason,
        guessed=values.guessed,
    )


class _WrongWidth(BaseException):
    """An input should be ``width`` channels wide. Not an Exception: models that catch those must not catch this."""

    def __init__(self, name: str, width: int):
        super().__init__(name, width)
        self.name = name
        self.width = width


class _Observer:
    """Notes each call, and stops the run at the layer that gets a made-up width."""

    def __init__(self, watch: Collection[str], known: Mapping[str, int], trust_likely: bool):
        self.watch = frozenset(watch)
        self.known = known
        self.trust_likely = trust_likely
        self.likely: set[str] = set()
        self.called: set[str] = set()
        self.calls: dict[str, list[ModuleCall]] = {}
        self.widths: dict[str, int] = {}
        self.wrong: str | None = None

    def width(self, name: str, likely: int | None = None) -> int:
        """The width of an input: what a layer asked for before, the likely one, else one that no layer has."""
        if likely is not None and self.trust_likely and name not in self.known:
            self.likely.add(name)
            return self.widths.setdefault(name, likely)
        made_up = _FIRST_DYE + _DYE_STEP * sum(n not in self.known for n in self.widths)
        return self.widths.setdefault(name, self.known.get(name, made_up))

    def __call__(self, path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.called.add(path)
        if path in self.watch:
            call = ModuleCall(tuple(map(_described, args)), {name: _described(v) for name, v in kwargs.items()})
            seen = self.calls.setdefault(path, [])
            if call not in seen:
                seen.append(call)
        tensor = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)
        wanted = _wanted_width(module)
        if tensor is None or wanted is None or not tensor.ndim:
            return
        axis = 1 if isinstance(module, nn.modules.conv._ConvNd | nn.GroupNorm) else -1
        got = tensor.shape[axis] if tensor.ndim > axis else wanted
        if got != wanted:
            given = "others" if got >= _FIRST_DYE else got
            self.wrong = f"{path} takes {wanted} channels and got {given}"
            self.correct(got, wanted)

    def correct(self, got: int, wanted: int) -> None:
        """Raises when ``got`` is made of a made-up width: the width itself, several of it, or with something added."""
        for name, width in self.widths.items():
            if width < _FIRST_DYE:
                continue
            times, added = divmod(got, width)
            if 1 <= times <= 64 and added <= _MOST_ADDED and wanted > added and (wanted - added) % times == 0:
                raise _WrongWidth(name, (wanted - added) // times)

    def read(self, message: str) -> None:
        """Raises when an error names a made-up width: the largest other number in it may be the one that fits."""
        numbers = {int(number) for number in re.findall(r"\d+", message)}
        for name in [name for name, width in self.widths.items() if width in numbers and width >= _FIRST_DYE]:
            fitting = [number for number in numbers if 1 < number < _FIRST_DYE]
            if fitting:
                raise _WrongWidth(name, max(fitting))


def _wanted_width(module: nn.Module) -> int | None:
    """Channels of the input that a layer insists on."""
    for name in ("in_features", "in_channels", "num_channels"):
        value = getattr(module, name, None)
        if isinstance(value, int) and isinstance(getattr(module, "weight", None), torch.Tensor):
            return value
    shape = getattr(module, "normalized_shape", None)
    return shape[-1] if isinstance(shape, tuple) and shape else None


class _Values(TorchDispatchMode):
    """Answers where a model asks a fake tensor for its values: they are one, or true. ``guessed`` tells that it did.

    An operation that refuses a made-up width beside another tensor tells the right one too.
    """

    def __init__(self, observer: _Observer) -> None:
        super().__init__()
        self.guessed = False
        self.observer = observer

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and getattr(args[0], "constant", None) is None:
            self.guessed = True
            return _one(args[0].dtype)
        if func is torch.ops.aten.nonzero.default:
            self.guessed = True
            return args[0].new_empty((args[0].numel(), args[0].ndim), dtype=torch.int64)
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError:
            for got, wanted in _disagreements([t for t in pytree.tree_leaves(args) if isinstance(t, torch.Tensor)]):
                self.observer.correct(got, wanted)
            raise


def _disagreements(tensors: list[torch.Tensor]) -> Iterator[tuple[int, int]]:
    """Pairs of sizes that differ at the same place, counted from the end."""
    for one, other in itertools.permutations(tensors, 2):
        for got, wanted in zip(reversed(one.shape), reversed(other.shape), strict=False):
            if got != wanted and wanted != 1:
                yield got, wanted


def _one(dtype: torch.dtype) -> bool | int | float:
    if dtype is torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from printing each shape that does not fit, with a stack trace: that is how widths are found."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    silent = logging.Filter("nothing")
    logger.addFilter(silent)
    try:
        yield
    finally:
        logger.removeFilter(silent)


def _first_tensor(*args: Any, **kwargs: Any) -> Any:
    return next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return TensorSpec(tuple(value.shape), value.dtype)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__name__


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200]
