"""The widths of a model's inputs, found out by trying.

An input whose width nobody knows gets a made-up one that no layer has. The layer that refuses it tells the right one,
and the model runs again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import nn

#: Made-up widths: far apart, and far from what a layer has, so a multiple or a sum still tells where it came from.
_FIRST, _STEP = 1_000_003, 2_000_014
_MOST_TIMES, _MOST_ADDED = 64, 16_384


class Width(Protocol):
    """Tells the width of an input by any name; ``likely`` is used unless a layer refuses it."""

    def __call__(self, name: str, likely: int | None = None) -> int: ...


class WrongWidth(BaseException):
    """An input should be ``width`` channels wide. Not an Exception: models that catch those must not catch this."""

    def __init__(self, name: str, width: int):
        super().__init__(name, width)
        self.name = name
        self.width = width


class Widths:
    """The widths of one run. ``used`` holds those that were asked for, ``refused`` says which layer got another width
    than it takes."""

    def __init__(self, known: Mapping[str, int], trust_likely: bool):
        self.known = known
        self.trust_likely = trust_likely
        self.used: dict[str, int] = {}
        self.trusted: set[str] = set()
        self.refused: str | None = None

    def __call__(self, name: str, likely: int | None = None) -> int:
        """The width of an input: what a layer asked for before, the likely one, else one that no layer has."""
        if likely is not None and self.trust_likely and name not in self.known:
            self.trusted.add(name)
            return self.used.setdefault(name, likely)
        made_up = _FIRST + _STEP * sum(n not in self.known for n in self.used)
        return self.used.setdefault(name, self.known.get(name, made_up))

    def check(self, path: str, module: nn.Module, tensor: torch.Tensor) -> None:
        """Compares what a layer gets with what it takes.

        Raises:
            WrongWidth: when it gets a made-up width.
        """
        takes = _width_of(module)
        axis = 1 if isinstance(module, nn.modules.conv._ConvNd | nn.GroupNorm) else tensor.ndim - 1
        if takes is None or not 0 <= axis < tensor.ndim or tensor.shape[axis] == takes:
            return
        got = tensor.shape[axis]
        self.refused = f"{path} takes {takes} channels and got {'others' if got >= _FIRST else got}"
        self.correct(got, takes)

    def disagree(self, tensors: list[torch.Tensor]) -> None:
        """Looks at the operands of an operation that failed: sizes that differ at the same place, from the end.

        Raises:
            WrongWidth: when one of two is a made-up width.
        """
        for one, other in itertools.permutations(tensors, 2):
            for got, takes in zip(reversed(one.shape), reversed(other.shape), strict=False):
                if got != takes and takes != 1:
                    self.correct(got, takes)

    def read(self, message: str) -> None:
        """Looks at an error's text.

        Raises:
            WrongWidth: when it names a made-up width; the largest other number in it may be the one that fits.
        """
        numbers = {int(number) for number in re.findall(r"\d+", message)}
        fitting = [number for number in numbers if 1 < number < _FIRST]
        name = next(self._made_up(numbers), None)
        if name is not None and fitting:
            raise WrongWidth(name, max(fitting))

    def correct(self, got: int, takes: int) -> None:
        """Raises WrongWidth when ``got`` is made of a made-up width: the width itself, several of it, or with something
        added. A pooled prompt of 1,000,003 joined with 1,536 others, where 2,816 are taken, is 1,280 wide."""
        for name in self._made_up():
            times, added = divmod(got, self.used[name])
            if 1 <= times <= _MOST_TIMES and added <= _MOST_ADDED and takes > added and (takes - added) % times == 0:
                raise WrongWidth(name, (takes - added) // times)

    def _made_up(self, among: set[int] | None = None) -> Iterator[str]:
        return (n for n, width in self.used.items() if width >= _FIRST and (among is None or width in among))


def _width_of(module: nn.Module) -> int | None:
    """Channels of the input that a layer insists on, None when it takes any."""
    for name in ("in_features", "in_channels", "num_channels"):
        value = getattr(module, name, None)
        if isinstance(value, int) and isinstance(getattr(module, "weight", None), torch.Tensor):
            return value
    shape = getattr(module, "normalized_shape", None)
    return shape[-1] if isinstance(shape, tuple) and shape else None
