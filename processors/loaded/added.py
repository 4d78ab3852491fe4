"""What is added to a site's attention, whatever computes that: ComfyUI, a processor, or another node's override.

Several patches may add at one site. A compiled block calls what is added through an operator, so that another picture,
weight, mask or time compiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...memo import cached, shared
from ...patching.calls import options_of, with_options
from ...patching.foreign import HOSTS_OWN, OVERRIDE
from ..as_operator import PLACE, site_at
from ..called_sites import note_met

#: The attribute of a site's module that holds what is added to its attention while a model call runs, in order: each
#: called with q, the number of heads, and the site's path.
ADDED = "onediff_added"

Adds = tuple[Callable[[torch.Tensor, int, str], torch.Tensor], str]


class Over:
    """An attention override that adds to what lies ``under`` it; None is the function that it is called for."""

    def __init__(self, attn: nn.Module, number: int, under: Callable | None):
        self.attn, self.number, self.under = attn, number, under
        self.called = False

    def __call__(self, func: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, *args: Any,
                 **kwargs: Any) -> torch.Tensor:  # fmt: skip
        self.called = True
        if self.under is None:
            result = func(q, k, v, heads, *args, **kwargs)
        else:
            result = self.under(func, q, k, v, heads, *args, **kwargs)
        return result + added_at(self.attn, self.number, q, heads)


def gives_way(override: Callable | None, superseded: Callable | None) -> bool:
    """Whether a processor takes the place of an override."""
    while isinstance(override, Over):
        if override.under is None:
            return True
        override = override.under
    return override is superseded or getattr(override, HOSTS_OWN, False)


def in_place_of(override: Callable | None, processor: Callable) -> Callable:
    """The override of a processor that takes the place of another one; what adds to that goes on adding."""
    if not isinstance(override, Over):
        return processor
    lowest = override
    while isinstance(lowest.under, Over):
        lowest = lowest.under
    lowest.under = processor
    return override


def without_added(options: dict[str, Any]) -> dict[str, Any]:
    """The options without what adds: its patch sees then that it was not asked, and adds to the result."""
    override = options.get(OVERRIDE)
    if not isinstance(override, Over):
        return options
    while isinstance(override, Over):
        override = override.under
    options = options.copy()
    if override is None:
        options.pop(OVERRIDE)
    else:
        options[OVERRIDE] = override
    return options


@shared
def adding_forward(forward: Callable, number: int, position: int) -> Callable:
    """A ``forward`` of a ComfyUI CrossAttention, its class's or one that was set on it, that adds what its module holds
    at ``number``. ``position`` is that of the options among the arguments."""

    def forward_that_adds(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        note_met(self, called=True, number=number)
        options = options_of((args, kwargs), position)
        options = {} if options is None else options
        over = Over(self, number, options.get(OVERRIDE))
        options = options.copy()  # not {**options}: a watched dict stays watched
        options[OVERRIDE] = over
        args, kwargs = with_options((args, kwargs), position, options)
        result = forward(self, *args, **kwargs)
        if over.called:
            return result
        q = self.to_q(args[0] if args else kwargs["x"])  # a module's processor has computed it, and asked no override
        added = added_at(self, number, q, self.heads)
        return result + (self.to_out(added) - self.to_out(torch.zeros_like(added[:, :1])))

    kept = ("superseded", "keeps_state", "reader")
    known = {name: value for name, value in getattr(forward, "__dict__", {}).items() if name in kept}
    forward_that_adds.__dict__.update({**known, "as_operator": True})
    return forward_that_adds


def added_at(attn: nn.Module, number: int, q: torch.Tensor, heads: int) -> torch.Tensor:
    """What a site's module holds at ``number`` gives for q, in a tensor of its own."""
    if torch.compiler.is_compiling() and hasattr(attn, PLACE):
        return torch.ops.onediff_comfy.added_attention(q, heads, getattr(attn, PLACE), number)
    return _added_now(attn, number, q, heads)


@torch.compiler.disable
def _added_now(attn: nn.Module, number: int, q: torch.Tensor, heads: int) -> torch.Tensor:
    adds, path = attn.__dict__[ADDED][number]
    return adds(q, heads, path)


@cached
def register() -> None:
    """Registers the operator, at the first call. What it gives has no gaps: compilers may use its memory again."""

    def added_attention(q: torch.Tensor, heads: int, place: str, number: int) -> torch.Tensor:
        return q.new_empty(q.shape).copy_(_added_now(site_at(place), number, q, heads))

    operator = torch.library.custom_op("onediff_comfy::added_attention", added_attention, mutates_args=())
    operator.register_fake(lambda q, heads, place, number: q.new_empty(q.shape))
    _kept.append(operator)


_kept: list[Any] = []
