"""Calls a processor on small real tensors: what its numbers say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from ...patching.random_numbers import numbers_kept
from ..mounted import Mounted
from .bench import Inputs, Raised, call, cases_of, dtypes_of, geometry, make_inputs, original, raised, site_stand_in
from .cases import MASKS, Case, Mask
from .standin import stand_in

#: Relative differences: below the first, two ways of computing the same; above the second, something else.
SAME, OTHER = 1e-3, 3e-2

Training = Literal["equal", "differs", "random"]


class Unavailable(Exception):
    """The processor cannot run here: it needs a device that this machine lacks."""


@dataclass
class Trial:
    """What a few calls gave. ``wrote`` are inputs that they changed, ``training`` how train() compares with eval();
    ``ignored``, ``inverted`` and ``misread`` are masks that did nothing, the reverse, or something else than in
    PyTorch's attention."""

    error: Raised | None = None
    finite: bool = True
    repeatable: bool = True
    training: Training = "equal"
    wrote: list[str] = field(default_factory=list)
    ignored: list[Mask] = field(default_factory=list)
    inverted: list[Mask] = field(default_factory=list)
    misread: list[Mask] = field(default_factory=list)


def trial(mounted: Mounted) -> Trial:
    """Evidence: the calls. Nothing is found out where the processor cannot run."""
    found = Trial()
    dtypes = sorted(dtypes_of(mounted), key=lambda dtype: dtype != torch.float32)
    small = small_case(mounted, dtypes[0]) if dtypes else None
    if small is None:
        return found
    try:
        with bench(mounted, small) as real:
            _judge(real, found)
        for dtype in dtypes[1:]:
            with bench(mounted, replace(small, dtype=dtype)) as real:
                _run_through(real)
    except Unavailable:
        pass
    except mounted.attendance.stops:
        raise
    except BaseException as error:  # SystemExit too: whatever forward raises is its author's to read
        found.error = raised(error, mounted.module)
    return found


def small_case(mounted: Mounted, dtype: torch.dtype) -> Case | None:
    """A case of few tokens, without a mask; None for a processor that the site cannot have."""
    tried = cases_of(mounted, thorough=False)
    if not tried:
        return None
    case = next((case for case in tried if case.layout.split_in), tried[0])
    return replace(case, batch=2, prompt=case.prompt and 7, latent=(5, 3), mask=None, dtype=dtype)


def _run_through(real: Bench) -> None:
    """Calls it once without and with a mask in a dtype that PyTorch's attention has here: shapes alone do not show
    which operations refuse mixed dtypes."""
    for mask in (None, MASKS[-1]):
        inputs = real.inputs(mask)
        try:
            real.original(inputs)
        except RuntimeError:
            return
        real.run(inputs)


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


@contextmanager
def bench(mounted: Mounted, case: Case) -> Iterator[Bench]:
    """Real tensors for a case, with gradients off and random numbers kept.

    Raises:
        Unavailable: when the processor cannot run here.
    """
    device = _device(mounted)
    generator = torch.Generator().manual_seed(0)

    def weight(tensor: torch.Tensor) -> torch.Tensor:
        bound = (3 / tensor.shape[-1]) ** 0.5
        return torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator).to(device, case.dtype)

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


def _judge(real: Bench, found: Trial) -> None:
    inputs = real.inputs()
    kept = {name: None if x is None else x.clone() for name, x in inputs.items()}
    processor = real.processor().eval()
    first = real.run(inputs, processor)
    found.wrote = [name for name, x in inputs.items() if x is not None and not _equal(x, kept[name])]
    ordinary = isinstance(first, torch.Tensor) and first.layout is torch.strided
    if found.wrote or not ordinary or first.shape != real.original(inputs).shape:
        return
    found.finite = bool(first.isfinite().all())
    if not found.finite:
        return
    first = first.clone()
    found.repeatable = difference(real.run(inputs, processor), first) < SAME
    if not found.repeatable:
        return
    found.training = _training(real, inputs, first)
    _judge_masks(real, inputs, first, found)


def _training(real: Bench, inputs: Inputs, in_eval: torch.Tensor) -> Training:
    processor = real.processor().train()
    once = real.run(inputs, processor)
    if difference(once, in_eval) < SAME:
        return "equal"
    return "differs" if difference(real.run(inputs, processor), once) < SAME else "random"


def _judge_masks(real: Bench, inputs: Inputs, unmasked: torch.Tensor, found: Trial) -> None:
    """Each form of mask against PyTorch's attention, for processors that agree with it where there is no mask. Of the
    others is known only whether a mask does anything."""
    plain = difference(unmasked, real.original(inputs)) < SAME
    looks_at_keys = difference(real.run(_other_keys(inputs)), unmasked) > OTHER
    name = list(inputs)[-1]
    for mask in MASKS:
        given = real.inputs(mask)[name]
        assert given is not None
        masked: dict[str, torch.Tensor | None] = {**inputs, name: given}
        right = real.original(masked)
        if difference(right, real.original(inputs)) < OTHER:
            continue
        handed = given.clone()
        result = real.run({**masked, name: handed})
        if not _equal(handed, given):
            found.wrote.append(name)
        elif looks_at_keys and difference(result, unmasked) < 1e-6:
            found.ignored.append(mask)
        elif plain and difference(result, right) > OTHER:
            reverse = real.original({**masked, name: ~given if mask.boolean else -given})
            (found.inverted if difference(result, reverse) < SAME else found.misread).append(mask)


def _other_keys(inputs: Inputs) -> Inputs:
    """The same call with other numbers in what keys and values come from."""
    changed = {}
    for name, x in inputs.items():
        reads = name in ("k", "v") or (name == "encoder_hidden_states" and x is not None)
        reads = reads or (name == "hidden_states" and inputs["encoder_hidden_states"] is None)
        changed[name] = x.flip(-1).clone() if reads and x is not None else x
    return changed


def difference(a: Any, b: torch.Tensor) -> float:
    """‖a - b‖ / ‖b‖; infinite where a is no tensor of that shape."""
    if not isinstance(a, torch.Tensor) or a.shape != b.shape:
        return float("inf")
    gap = float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-12))
    return gap if gap == gap else float("inf")


def _equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is None or b is None or torch.equal(a, b)
