"""Real tensors at a site, to call a processor with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ...processors.random_numbers import numbers_kept
from ..mounted import Mounted
from .bench import Inputs, call, cases_of, dtypes_of, geometry, make_inputs, original, site_stand_in
from .cases import Case, Mask
from .standin import random_weight, stand_in


class Unavailable(Exception):
    """The processor cannot run here: it needs a device that this machine lacks."""


#: Batch, tokens of the prompt, height and width in tokens: small ones first, then those that more processors take. No
#: prompt is shorter than 77: adapters cut up to 16 tokens off.
SIZES = ((2, 77, (5, 3)), (2, 77, (4, 4)), (1, 77, (5, 3)), (1, 77, (4, 4)), (2, 77, (16, 16)))


def small_cases(mounted: Mounted, dtype: torch.dtype) -> list[Case]:
    """Cases of few tokens, without a mask; none for a processor that the site cannot have."""
    tried = cases_of(mounted, thorough=False)
    layouts = sorted({case.layout for case in tried}, key=lambda layout: (not layout.split_in, layout.split_out))
    return [
        Case(batch, tried[0].prompt and prompt, latent, None, dtype, layout)
        for layout in layouts
        for batch, prompt, latent in SIZES
    ]


#: Operations of a call up to which it is captured, and called in every combination of inputs: an attention has 10 to
#: 60, and Dynamo takes about 10 ms for each.
MOST_OPERATIONS = 200


@dataclass(frozen=True)
class Bench:
    """A processor's class and weights with real tensors at a site like its own."""

    mounted: Mounted
    case: Case
    device: torch.device
    generator: torch.Generator
    attention: nn.Module | None

    def random(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Normal numbers; for bool, True in about half of the places and in the first of each row."""
        numbers = torch.randn(shape, generator=self.generator)
        if dtype == torch.bool:
            numbers[..., 0] = 1
            return (numbers > 0).to(self.device)
        return numbers.to(self.device, dtype)

    def inputs(self, mask: Mask | None = None) -> Inputs:
        return make_inputs(self.mounted, replace(self.case, mask=mask), self.random)

    def processor(self, convert: bool = True) -> nn.Module:
        """A new copy of the processor, with its weights in the case's dtype and on its device, or as they are."""

        def make(tensor: torch.Tensor) -> torch.Tensor:
            if convert:  # another rule tells of numbers that are missing or not finite
                tensor = _whole(tensor.detach())
            dtype = self.case.dtype if convert and tensor.is_floating_point() else tensor.dtype
            return tensor.detach().to(self.device if convert else tensor.device, dtype, copy=True)

        return stand_in(self.mounted.processor, make)

    def run(self, inputs: Inputs, processor: nn.Module | None = None) -> Any:
        processor = self.processor().eval() if processor is None else processor
        level, heads = self.mounted.level, geometry(self.mounted.site).heads
        return self.mounted.apart(lambda: call(processor, level, self.attention, heads, self.case, inputs))

    def original(self, inputs: Inputs) -> torch.Tensor:
        """What the site computes with PyTorch's attention."""
        heads = geometry(self.mounted.site).heads
        return original(self.mounted.level, self.attention, heads, self.case, inputs)


class Counted(TorchFunctionMode):
    """Counts calls of torch's functions."""

    operations = 0

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.operations += getattr(function, "__name__", "") != "__get__"  # as of a shape
        return function(*args, **(kwargs or {}))


def operations(mounted: Mounted) -> int:
    """Evidence: those of one small call without a mask, 0 where it cannot run here."""
    dtypes = sorted(dtypes_of(mounted), key=lambda dtype: dtype != torch.float32)
    small = next(iter(small_cases(mounted, dtypes[0])), None) if dtypes else None
    if small is None:
        return 0
    try:
        with bench(mounted, small) as real:
            inputs, processor, heads = real.inputs(), real.processor().eval(), geometry(mounted.site).heads

            def counted() -> int:
                with Counted() as mode:
                    call(processor, mounted.level, real.attention, heads, small, inputs)
                return mode.operations

            return mounted.apart(counted)
    except mounted.attendance.stops:
        raise
    except BaseException:  # Unavailable too; what it raises is the other layers' to tell
        return 0


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta:
        return torch.ones(tensor.shape, dtype=tensor.dtype)
    if tensor.is_floating_point() and tensor.element_size() > 1:
        return tensor.nan_to_num(1.0, 1.0, -1.0)
    return tensor


@contextmanager
def bench(mounted: Mounted, case: Case) -> Iterator[Bench]:
    """Real tensors for a case, with gradients off and random numbers kept.

    Raises:
        Unavailable: when the processor cannot run here.
    """
    device = _device(mounted)
    generator = torch.Generator().manual_seed(0)

    def weight(tensor: torch.Tensor) -> torch.Tensor:
        return random_weight(tensor.shape, case.dtype, generator).to(device)

    with torch.no_grad(), numbers_kept(device):
        attention = site_stand_in(mounted.site, weight) if mounted.level == "module" else None
        yield Bench(mounted, case, device, generator, attention)


def _device(mounted: Mounted) -> torch.device:
    """The model's device where it holds numbers and is here, else the CPU."""
    here = mounted.device.type == "cuda" and torch.cuda.is_available()
    device = mounted.device if here else torch.device("cpu")
    allowed = mounted.processor.limits.devices
    if allowed is not None and device.type not in allowed:
        raise Unavailable(device.type)
    return device
