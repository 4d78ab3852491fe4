"""Rules on a processor's own tensors, at its site and against a file that they were loaded from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..patching.inside import tensors_in
from ..processors import written
from ..processors.random_numbers import numbers_kept
from .finding import Finding, worst_first
from .mounted import Held, Mounted
from .probing.bench import Raised, call, geometry, make_inputs, raised, site_stand_in
from .probing.probe import fakes
from .probing.real import Unavailable, bench
from .probing.standin import Make, stand_in
from .probing.trial import working_case
from .rule import Hit, Layer, Rule, Subject, apply, rule
from .source import function_location, tensor_location

#: Names that one finding lists.
LISTED = 4


class Weights(Rule):
    """A rule on a processor's tensors, whether it can be called or not; ``names(subject)`` are those that break it."""

    layer: ClassVar[Layer] = "weights"
    subject: ClassVar[type[Subject]] = Held

    def names(self, subject: Held) -> Sequence[str]:
        raise NotImplementedError

    def hits(self, subject: Held) -> Iterator[Hit]:
        names = self.names(subject)
        if names:
            yield Hit({"names": listed(names)}, tensor_location(subject.module, names[0]))


@rule
class NotFiniteWeights(Weights):
    """One NaN among the weights spoils every picture."""

    what = "has NaN or Inf in {names}"
    why = "Every result would be NaN or Inf, too."
    fix = "Load these weights again from an intact file; a conversion to float16 may have overflowed."

    def names(self, subject: Held) -> Sequence[str]:
        return [name for name, tensor in tensors(subject.module) if not _finite(tensor)]


@rule
class NoData(Weights):
    """Tensors on the meta device were never loaded."""

    what = "has no numbers in {names}, on the meta device"
    why = "Its weights were never loaded."
    fix = "Load them, or create the module outside of torch.device(“meta”)."

    def names(self, subject: Held) -> Sequence[str]:
        return [name for name, tensor in tensors(subject.module) if tensor.is_meta]


@rule
class RequiresGrad(Weights):
    """Parameters require gradients until they are told not to."""

    severity = "note"
    what = "has weights that require gradients: {names}"
    why = "Nothing is trained here; where gradients are on, every step would keep its intermediate results in memory."
    fix = "Call requires_grad_(False) on it."

    def names(self, subject: Held) -> Sequence[str]:
        return [name for name, tensor in tensors(subject.module) if tensor.requires_grad]


class Apart(Rule):
    """Weights in another dtype or on another device than the model computes in. Converting them inside ``forward`` is
    fine, so it is found out by calling."""

    layer: ClassVar[Layer] = "weights"
    subject: ClassVar[type[Subject]] = Mounted

    def values(self, subject: Mounted) -> dict[str, object] | None:
        raise NotImplementedError

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        values = self.values(subject)
        if values is not None and (failed := subject.evidence(as_it_is)) is not None:
            yield Hit({**values, "error": failed.error}, failed.where)


@rule
class OtherDtypeWeights(Apart):
    """The model's inputs are in its own dtype."""

    what = "has weights in {own}, the model computes in {model}: {names}"
    why = "Called with its weights as they are: {error}."
    fix = "Convert them with .to(torch.{model}), or inside forward to the dtype of its input."

    def values(self, subject: Mounted) -> dict[str, object] | None:
        apart = {name: t for name, t in tensors(subject.module) if t.is_floating_point() and t.dtype != subject.dtype}
        own = ", ".join(dict.fromkeys(_name(tensor.dtype) for tensor in apart.values()))
        return {"names": listed(list(apart)), "own": own, "model": _name(subject.dtype)} if apart else None


@rule
class OtherDeviceWeights(Apart):
    """The model's inputs are on its own device."""

    what = "has weights on {own}, the model computes on {model}: {names}"
    why = "Called with its weights where they are: {error}."
    fix = "Move them with .to(“{model}”), or inside forward to the device of its input."

    def values(self, subject: Mounted) -> dict[str, object] | None:
        apart = {n: t for n, t in tensors(subject.module) if t.device.type not in (subject.device.type, "meta")}
        own = ", ".join(dict.fromkeys(tensor.device.type for tensor in apart.values()))
        return {"names": listed(list(apart)), "own": own, "model": subject.device.type} if apart else None


def as_it_is(mounted: Mounted) -> Raised | None:
    """Evidence: what goes wrong with the weights' own dtypes and devices that goes well with the model's; None when
    nothing does. On real tensors where the model's device is here, else on fake ones, which mix dtypes more freely."""
    case = working_case(mounted, mounted.dtype)
    if case is None:
        return None

    def failure(run: Callable[[], Any], device: torch.device) -> Raised | None:
        try:
            result = run()
        except mounted.attendance.stops:
            raise
        except BaseException as error:
            return raised(error, mounted)
        if isinstance(result, torch.Tensor) and (result.dtype, result.device.type) != (case.dtype, device.type):
            said = f"the result is {_name(result.dtype)} on {result.device.type}"
            return Raised(said, function_location(type(mounted.module).forward))
        return None

    if mounted.device.type == "cpu" or torch.cuda.is_available():
        try:
            with bench(mounted, case) as real:
                run = partial(real.run, real.inputs())
                own = failure(lambda: run(real.processor(convert=False)), real.device)
                return own if own is None or failure(lambda: run(real.processor()), real.device) is None else None
        except Unavailable:
            return None
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), numbers_kept(mounted.device):
        attention = site_stand_in(mounted.site, fakes(case.dtype, mounted.device))
        inputs = make_inputs(mounted, case, lambda shape, dtype: torch.empty(shape, dtype=dtype, device=mounted.device))

        def call_with(make: Make) -> Any:
            heads = geometry(mounted.site).heads
            return call(stand_in(mounted.processor, make), mounted.level, attention, heads, case, inputs)

        own = failure(lambda: call_with(_fake_as_it_is), mounted.device)
        converted = partial(call_with, fakes(case.dtype, mounted.device))
        return own if own is None or failure(converted, mounted.device) is None else None


def _fake_as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


@dataclass(frozen=True)
class Loaded(Subject):
    """A processor and the tensors of the file that it is to be loaded from."""

    state_dict: Mapping[str, torch.Tensor]

    @property
    def own(self) -> Mapping[str, torch.Tensor]:
        return self.module.state_dict()


class FromFile(Rule):
    """A rule on names and shapes in a file; ``names(loaded)`` are those that break it."""

    layer: ClassVar[Layer] = "weights"
    subject: ClassVar[type[Subject]] = Loaded

    def names(self, loaded: Loaded) -> Sequence[str]:
        raise NotImplementedError

    def hits(self, subject: Loaded) -> Iterator[Hit]:
        names = self.names(subject)
        if names:
            known = listed(sorted(subject.state_dict)) or "nothing"
            yield Hit({"names": listed(names), "count": len(names), "file": known, "own": listed(sorted(subject.own))})


@rule
class MissingWeights(FromFile):
    """Weights that keep the numbers they were created with."""

    what = "finds no {names} in its file"
    why = "They would keep the numbers that the class starts with. The file has {file}."
    fix = "Load the file that belongs to this class, or rename its tensors to {own}."

    def names(self, loaded: Loaded) -> Sequence[str]:
        return sorted(loaded.own.keys() - loaded.state_dict.keys())


@rule
class UnexpectedWeights(FromFile):
    """Tensors that nothing takes up."""

    severity = "warning"
    what = "has no place for {names} of its file"
    why = "They would not be used. The class has {own}."
    fix = "Load the file that belongs to this class, or take them out."

    def names(self, loaded: Loaded) -> Sequence[str]:
        return sorted(loaded.state_dict.keys() - loaded.own.keys())


@rule
class OtherShapeWeights(FromFile):
    """A file for another width."""

    what = "does not fit its file: {names}"
    why = "Shapes are given as class ≠ file. The file belongs to a model of other sizes."
    fix = "Create the class with the sizes of the file, or load the file for this model."

    def names(self, loaded: Loaded) -> Sequence[str]:
        shapes = {
            n: (tuple(t.shape), tuple(loaded.state_dict[n].shape))
            for n, t in loaded.own.items()
            if n in loaded.state_dict
        }
        return [f"{name} {own} ≠ {file}" for name, (own, file) in shapes.items() if own != file]


def check_weights(
    processor: nn.Module, state_dict: Mapping[str, torch.Tensor], path: str = "processor"
) -> tuple[Finding, ...]:
    """What keeps a processor from being loaded from a state dict: missing and unexpected names, other shapes."""
    return worst_first(apply("weights", Loaded(path, written(processor), state_dict)))


def tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by name."""
    yield from tensors_in(module)


def listed(names: Sequence[str]) -> str:
    """The first few names: "a, b, c, d and 12 more"."""
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def whole(mounted: Mounted) -> bool:
    """Whether a processor's tensors hold numbers that can be computed with."""
    return all(not tensor.is_meta and _finite(tensor) for _, tensor in tensors(mounted.module))


def _finite(tensor: torch.Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point():
        return True
    tensor = tensor.detach()
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
