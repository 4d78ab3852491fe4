"""Processors that no graph can hold: a compiled block calls them through an operator, uncompiled, on the tensors of the
call. They must not keep anything between calls: a block's first compiled call is made twice."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from ..memo import cached
from ..patching.forwards import swapped_attributes
from ..patching.inside import module_of
from ..patching.user_errors import qualified_name

#: The attribute of a site's module that says its place in the block that is compiled, the same in equal blocks.
PLACE = "onediff_place"

_registered: WeakValueDictionary[str, Any] = WeakValueDictionary()
_running = threading.local()


def name_of(computes: Any, cls: type) -> str:
    """The name under which operators find what computes: the same in every process for the only one of its class."""
    register()
    written = f"{module_of(cls)}:{qualified_name(cls)}"
    names = (written if number == 1 else f"{written} #{number}" for number in itertools.count(1))
    name = next(name for name in names if name not in _registered)
    _registered[name] = computes
    return name


@contextmanager
def at_places(sites: Mapping[str, nn.Module]) -> Iterator[None]:
    """While a compiled block runs: its sites' modules by their places, which they know."""
    before = getattr(_running, "sites", None)
    with swapped_attributes(PLACE, [(module, place) for place, module in sites.items()]):
        _running.sites = sites
        try:
            yield
        finally:
            _running.sites = before


def site_at(place: str) -> nn.Module:
    """The module of a site of the compiled block that runs."""
    return _running.sites[place]


def in_graph(name: str, level: str, args: tuple) -> torch.Tensor:
    """The call of a processor, as Dynamo traces it."""
    if level == "kernel":
        return torch.ops.onediff_comfy.kernel_processor(*args, name)
    attn, x, context, mask, value = (*args, None)[:5]
    return torch.ops.onediff_comfy.module_processor(x, context, mask, value, getattr(attn, PLACE), name)


@cached
def register() -> None:
    """Registers the operators, at the first call. What they give is a tensor of their own, with no gaps: compilers may
    use its memory again."""

    def own(result: Any, like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        if not isinstance(result, torch.Tensor) or tuple(result.shape) != tuple(shape) or result.dtype != like.dtype:
            raise TypeError(f"it gave {_form(result)} instead of {tuple(shape)}, {like.dtype}.")
        return like.new_empty(shape).copy_(result)

    def kernel_processor(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        mask: torch.Tensor | None,
        skip_reshape: bool,
        skip_output_reshape: bool,
        scale: float | None,
        enable_gqa: bool,
        name: str,
    ) -> torch.Tensor:
        result = _registered[name](q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa)
        return own(result, q, _kernel_shape(q, v, heads, skip_reshape, skip_output_reshape))

    def module_processor(
        x: torch.Tensor,
        context: torch.Tensor | None,
        mask: torch.Tensor | None,
        value: torch.Tensor | None,
        place: str,
        name: str,
    ) -> torch.Tensor:
        return own(_registered[name](_running.sites[place], x, context, mask, value), x, tuple(x.shape))

    kernel = torch.library.custom_op("onediff_comfy::kernel_processor", kernel_processor, mutates_args=())
    kernel.register_fake(
        lambda q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa, name: q.new_empty(
            _kernel_shape(q, v, heads, skip_reshape, skip_output_reshape)
        )
    )
    module = torch.library.custom_op("onediff_comfy::module_processor", module_processor, mutates_args=())
    module.register_fake(lambda x, context, mask, value, place, name: x.new_empty(x.shape))
    _kept.extend((kernel, module))


def _kernel_shape(q: torch.Tensor, v: torch.Tensor, heads: int, skip_reshape: bool, skip_output_reshape: bool) -> tuple:
    batch, tokens = q.shape[0], q.shape[2 if skip_reshape else 1]
    head_dim = v.shape[-1] if skip_reshape else q.shape[-1] // heads
    return (batch, heads, tokens, head_dim) if skip_output_reshape else (batch, tokens, heads * head_dim)


def _form(result: Any) -> str:
    return f"{tuple(result.shape)}, {result.dtype}" if isinstance(result, torch.Tensor) else type(result).__name__


_kept: list[Any] = []
