"""Which modules a model calls, found out by calling it.

The model's forward runs on fake tensors, on a copy that has no weights (``shadow``): an SDXL UNet takes about a second
and no memory. What the inputs look like is the caller's knowledge, except their widths, which are tried (``widths``).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ...patching.calls import options_of, options_position, with_options
from ...patching.foreign import OVERRIDE
from ...patching.user_errors import error_words, said
from ..probing.cases import Brought, Layout, Mask
from .module_call import ModuleCall, described
from .shadow import Fakes, shadow
from .widths import Width, Widths, WrongWidth

#: Tells what a model calls, given the paths of modules that cannot run.
FindReach = Callable[[Collection[str]], "Reach"]

#: Calls a copy of a model as the host would. The second argument tells the width of an input by any name.
ExampleCall = Callable[[nn.Module, Width], Any]

#: Runs with one more width right each, before the search is given up.
MAX_RUNS = 16


@dataclass(frozen=True)
class Reach:
    """What was called. ``reason`` says why the model could not be called to its end, None when it could; then a module
    that is not in ``called`` is not called with inputs like these. ``guessed`` tells that a branch depended on values,
    which fake tensors do not have, so another branch may call more. ``calls`` holds the distinct calls of the modules
    that were asked for, ``widths`` those of the inputs. ``attention`` holds what was handed to ComfyUI's attention
    function, with the path of the module that was called last before."""

    called: frozenset[str] = frozenset()
    calls: Mapping[str, tuple[ModuleCall, ...]] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None
    guessed: bool = False
    attention: frozenset[tuple[str, Mask | None, Layout]] = frozenset()

    def brought(self, path: str) -> Brought | None:
        """What is handed to attention at a site; None where that was not seen."""
        there = [(mask, layout) for at, mask, layout in self.attention if at == path or at.startswith(f"{path}.")]
        masks, layouts = {mask for mask, _ in there if mask is not None}, {layout for _, layout in there}
        return Brought(frozenset(masks), frozenset(layouts)) if there else None

    @property
    def complete(self) -> bool:
        """True when the run came to its end and no branch was guessed."""
        return self.reason is None and not self.guessed

    def below(self, prefix: str) -> Reach:
        """The same for one part of the model: paths start at the part."""
        start = f"{prefix}."
        return replace(
            self,
            called=frozenset(path.removeprefix(start) for path in self.called if path.startswith(start)),
            calls={path.removeprefix(start): calls for path, calls in self.calls.items() if path.startswith(start)},
            attention=frozenset((path.removeprefix(start), mask, layout) for path, mask, layout in self.attention),
        )


def reach(
    model: nn.Module,
    examples: Sequence[ExampleCall],
    *,
    dtype: torch.dtype = torch.float32,
    replaced: Mapping[str, nn.Module] | None = None,
    stand_ins: Collection[str] = (),
    watch: Collection[str] = (),
    stops: tuple[type[BaseException], ...] = (),
) -> Reach:
    """Calls a copy of ``model`` on fake tensors and tells which modules ran. Raises ``stops`` only, and leaves nothing
    behind.

    Args:
        examples: ways to run the copy, tried in turn until one comes to its end; else the one that comes farthest
            counts. What they create becomes fake too.
        dtype: what the model computes in; the weights of the copy have it.
        replaced: modules that stand in the place of others, by path.
        stand_ins: paths of modules that cannot run; when called they give their first tensor back.
        watch: paths of modules whose arguments are wanted.
        stops: what ends a run on purpose, as the user's Cancel does.
    """
    trial = _Trial(model, Fakes(dtype), replaced or {}, stand_ins, watch, stops)
    farthest = Reach(reason="there is no example of its inputs")
    for example in examples:
        result = trial.search(example)
        if result.reason is None:
            return result
        farthest = max(farthest, result, key=lambda r: len(r.called))
    return farthest


@dataclass(frozen=True)
class _Trial:
    """What all runs of one model have in common."""

    model: nn.Module
    fakes: Fakes
    replaced: Mapping[str, nn.Module]
    stand_ins: Collection[str]
    watch: Collection[str]
    stops: tuple[type[BaseException], ...]

    def search(self, example: ExampleCall) -> Reach:
        """Runs the model again and again, each time with one more width right."""
        known: dict[str, int] = {}
        trust_likely = True
        result = Reach(reason="the widths of its inputs could not be found")
        for _ in range(MAX_RUNS):
            widths = Widths(known, trust_likely)
            try:
                result = self.run(example, widths)
            except WrongWidth as wrong:
                known[wrong.name] = wrong.width
                continue
            if widths.refused is None or not widths.trusted:
                return result
            known, trust_likely = {}, False
        return result

    def run(self, example: ExampleCall, widths: Widths) -> Reach:
        """Runs the model once.

        Raises:
            WrongWidth: when a width was refused and the right one is known.
        """
        observer, values, reason = _Observer(self.watch, widths), _Values(widths), None
        state = random.getstate()
        passed_on: tuple[type[BaseException], ...] = (WrongWidth, *self.stops)
        try:
            with _quiet(), torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
                copy = shadow(self.model, self.fakes, observer, self.replaced)
                for path in self.stand_ins:
                    module = copy.get_submodule(path)
                    if type(module).__call__ is nn.Module.__call__:  # else it does its work there
                        module.__dict__["forward"] = _first_tensor
                with self.fakes.mode, values:
                    example(copy, widths)
        except passed_on:
            raise
        except BaseException as error:  # whatever a model raises, the answer is "no, because"
            widths.read(said(error))
            reason = widths.refused or error_words(error)
        finally:
            random.setstate(state)
        calls = {path: tuple(calls) for path, calls in observer.calls.items()}
        attention = frozenset(observer.attention)
        return Reach(frozenset(observer.called), calls, dict(widths.used), reason, values.guessed, attention)


class _Observer:
    """Notes each call."""

    def __init__(self, watch: Collection[str], widths: Widths):
        self.watch = frozenset(watch)
        self.widths = widths
        self.called: set[str] = set()
        self.calls: dict[str, list[ModuleCall]] = {}
        self.attention: set[tuple[str, Mask | None, Layout]] = set()
        self.last = ""

    def __call__(self, path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.called.add(path)
        self.last = path
        for options in (*args, *kwargs.values()):
            override = options.get(OVERRIDE) if isinstance(options, dict) else None
            if override is not None and not isinstance(override, _Noting):
                options[OVERRIDE] = _Noting(override, self)  # the run's own dict
        if path in self.watch:
            position = options_position(type(module).forward)
            if options_of((args, kwargs), position) is not None:
                args, kwargs = with_options((args, kwargs), position, {})
            call = ModuleCall(tuple(map(described, args)), {name: described(v) for name, v in kwargs.items()})
            seen = self.calls.setdefault(path, [])
            if call not in seen:
                seen.append(call)
        tensor = _first_tensor(*args, **kwargs)
        if tensor is not None:
            self.widths.check(path, module, tensor)


@dataclass(frozen=True)
class _Noting:
    """An attention override that notes how it is called."""

    override: Callable
    observer: _Observer

    def __call__(
        self,
        attention: Callable,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        mask: Any = None,
        attn_precision: Any = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **kwargs: Any,
    ) -> Any:
        tokens = 2 if skip_reshape else 1
        seen = None
        if isinstance(mask, torch.Tensor) and _fits(mask, q.shape[tokens], k.shape[tokens]):
            seen = Mask(mask.ndim, mask.dtype == torch.bool)
        self.observer.attention.add((self.observer.last, seen, Layout(bool(skip_reshape), bool(skip_output_reshape))))
        layout = {"skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}
        return self.override(attention, q, k, v, heads, mask, attn_precision, **layout, **kwargs)


def _fits(mask: torch.Tensor, queries: int, keys: int) -> bool:
    """Whether it is a mask for these: some families pass on what they are not made for."""
    return 2 <= mask.ndim <= 4 and mask.shape[-2] in (1, queries) and mask.shape[-1] in (1, keys)


class _Values(TorchDispatchMode):
    """Answers where a model asks a fake tensor for its values: they are one, or true. ``guessed`` tells that it did."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.guessed = False
        self.widths = widths

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
            self.widths.disagree([leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)])
            raise


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


def _first_tensor(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)
