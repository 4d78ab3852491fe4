"""A processor in any form, with any signature, as one that keeps the pack's contract.

What a processor has no parameter for is done around it where that is exact (layout of q, k and v, scale, fewer key
heads). A call with a mask, or with separate values, that it cannot take is computed by PyTorch's attention instead.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from ...patching.explicit_forward import repaired
from ..built_in.sdpa import SDPAProcessor
from ..built_in.shapes import attend, merge_heads, split_heads
from ..contract import KernelCall, KernelProcessor, Limits, ModuleProcessor, Processor
from ..elsewhere import note_given_up
from ..sites.find import Site
from .attn_view import AttnView
from .call_plan import Form
from .forms import Way, way_of


class NotCallable(TypeError):
    """A processor whose signature does not tell how to call it. ``cls`` is its class."""

    def __init__(self, cls: type[nn.Module], reason: str):
        super().__init__(f"{cls.__name__} {reason}")
        self.cls = cls
        self.reason = reason


def adapt(processor: nn.Module, site: Site | None = None, way: Way | None = None) -> Processor:
    """The processor itself when it derives from the pack's contract, else one that calls it.

    Args:
        site: one of those where it is going to be, for a small call where nothing else tells how it is called.
        way: how it is called, where that is known.

    Raises:
        NotCallable: when nothing tells its form, or when it requires what no call brings.
    """
    if issubclass(type(processor), Processor):  # isinstance would ask its own __class__
        return cast(Processor, processor)
    processor = repaired(processor)
    way = way or way_of(processor, site)
    if way is None:
        raise NotCallable(
            type(processor), "has a forward that starts with neither (attn, hidden_states) nor (q, k, v, heads)"
        )
    if way.plan.unfilled:
        raise NotCallable(type(processor), f"requires {', '.join(way.plan.unfilled)}, which no call brings")
    adapted = _ADAPTED[way.form](processor, way)
    adapted.training = processor.training  # train() would reach the model's own layers
    return adapted


def written(processor: nn.Module) -> nn.Module:
    """The module that a person wrote, inside what adapts it."""
    return cast(_Adapted, processor).inner if issubclass(type(processor), _Adapted) else processor


def way_in(processor: nn.Module) -> Way | None:
    """How an adapted processor calls what it adapts; None for others."""
    return cast(_Adapted, processor).way if issubclass(type(processor), _Adapted) else None


class _Adapted(Processor):
    """``inner`` is called as ``plan`` says, ``fallback`` for what it cannot take."""

    def __init__(self, inner: nn.Module, way: Way):
        super().__init__()
        self.inner = inner
        self.way = way
        self.plan = way.plan
        self.takes_options = "transformer_options" in (*way.plan.named, *way.plan.positional)  # type: ignore[misc]
        self.fallback = SDPAProcessor()
        self.limits = getattr(inner, "limits", Limits())  # type: ignore[misc]


class AdaptedKernel(_Adapted, KernelProcessor):
    """Calls a kernel-level module by its own signature, and with ``transformer_options`` where it has a parameter of
    that name."""

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        mask: torch.Tensor | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        transformer_options: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        call = KernelCall(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa)
        return self.compute(call, {} if transformer_options is None else transformer_options)

    def compute(self, call: KernelCall, options: dict[str, Any] | None = None) -> torch.Tensor:
        given, dropped = call._asdict(), self.plan.dropped
        if call.mask is not None and "mask" in dropped:
            note_given_up()
            return self.fallback(**given)
        if call.enable_gqa and "enable_gqa" in dropped:
            if not call.skip_reshape:
                given.update({name: split_heads(given[name], call.head_dim()) for name in "qkv"}, skip_reshape=True)
            for name in "kv":
                given[name] = given[name].repeat_interleave(call.heads // given[name].shape[1], dim=1)
            given["enable_gqa"] = False
        if call.scale is not None and "scale" in dropped:
            given["q"] = given["q"] * (call.scale * call.head_dim() ** 0.5)  # the processor divides by √head_dim
        if given["skip_reshape"] and "skip_reshape" in dropped:
            given.update({name: merge_heads(given[name]) for name in "qkv"}, skip_reshape=False)
        out = self.plan.call(self.inner, {**given, "transformer_options": options})
        split_after = call.skip_output_reshape and "skip_output_reshape" in dropped
        return split_heads(out, out.shape[-1] // call.heads) if split_after else out


class AdaptedModule(_Adapted, ModuleProcessor):
    """Calls a module-level module by its own signature, with what diffusers' contract promises of ``attn``; and with
    ``transformer_options`` where it has a parameter of that name."""

    def forward(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        given = {
            "encoder_hidden_states": encoder_hidden_states,
            "attention_mask": attention_mask,
            "value": value,
        }
        if any(given.get(name) is not None for name in self.plan.dropped):
            note_given_up(attn)
            return attend(self.fallback, attn, hidden_states, encoder_hidden_states, attention_mask, value)
        view = AttnView(attn, hidden_states.dtype)
        options = {} if transformer_options is None else transformer_options
        called = {"attn": view, "hidden_states": hidden_states, **given, "transformer_options": options}
        return self.plan.call(self.inner, called)


class AdaptedStandIn(_Adapted, ModuleProcessor):
    """Calls a module that takes a whole attention module's place, as the host calls that one. Where ``__init__`` takes
    the site it has one instance a site, which holds the site's own layers."""

    takes_options = True

    def forward(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        given = {"context": encoder_hidden_states, "value": value, "mask": attention_mask}
        if any(given.get(name) is not None for name in self.plan.dropped):
            note_given_up(attn)
            return attend(self.fallback, attn, hidden_states, encoder_hidden_states, attention_mask, value)
        options = {} if transformer_options is None else transformer_options
        return self.plan.call(self.inner, {"x": hidden_states, **given, "transformer_options": options})


_ADAPTED: dict[Form, type[_Adapted]] = {
    "kernel": AdaptedKernel,
    "module": AdaptedModule,
    "stand-in": AdaptedStandIn,
}
