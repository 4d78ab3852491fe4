"""What is set on a site's module while a model call runs: forwards that ask a processor, unless another node has
replaced attention later."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..memo import Same, shared
from ..patching.calls import options_of, options_position, with_options
from ..patching.foreign import OVERRIDE
from .authored.instances import AsOperator, Computes, Seat, reader_of
from .built_in.sdpa import SDPAProcessor
from .built_in.shapes import attend, in_batch_of
from .called_sites import note_met
from .choosing.host_call import HostCall
from .choosing.running import trial_at
from .contract import KernelCall
from .elsewhere import computing, is_one_of, note_given_up, note_left, site_computing
from .kernels.kernel import Kernel
from .loaded.added import gives_way, in_place_of

_SDPA = SDPAProcessor().eval()


@shared
def kernel_override(processor: Computes) -> Callable:
    """The processor as an ``optimized_attention_override``; one function a processor, so compiled graphs are shared.

    Calls that a kernel cannot take stay with ComfyUI's attention, in compiled blocks with PyTorch's.
    """
    takes_options = getattr(processor, "takes_options", False)
    checked = processor.checked if isinstance(processor, AsOperator) else processor
    kernel = type(checked) if isinstance(checked, Kernel) else None

    def override(
        func: Callable,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        mask: torch.Tensor | None = None,
        attn_precision: torch.dtype | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **kwargs: Any,
    ) -> torch.Tensor:
        scale, enable_gqa = kwargs.get("scale"), kwargs.get("enable_gqa", False)
        if not skip_reshape:
            k, v = in_batch_of(q, k, v)  # type: ignore[assignment]
        if kernel is not None:
            in_full = kernel.approximate and kwargs.get("low_precision_attention", True) is False
            if torch.compiler.is_compiling():
                if in_full:
                    return _SDPA(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa)
            else:
                site = site_computing()
                trial = trial_at(site)
                if trial is None or trial.named is not None:
                    reason = left_because(kernel, KernelCall(q, k, v, heads, mask, skip_reshape), in_full)
                    if reason is not None:
                        note_left(reason)
                        note_met(site, called=False)
                        return func(q, k, v, heads, mask, attn_precision, skip_reshape, skip_output_reshape, **kwargs)
                if trial is not None and site is not None:
                    note_met(site, called=True)
                    whole = KernelCall(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa)
                    return trial.attend(site, HostCall(func, whole, attn_precision, kwargs), processor)
        if processor.left and is_one_of(processor.left, q, mask, skip_reshape, skip_output_reshape):
            note_given_up()
            note_met(site_computing(), called=False)
            return _SDPA(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa)
        note_met(site_computing(), called=True)
        if takes_options:
            options = kwargs.get("transformer_options")
            return processor(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa, options)
        return processor(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa)

    override.__dict__.update(
        keeps_state=isinstance(processor, Seat),
        as_operator=isinstance(processor, AsOperator),
        repeatable=isinstance(processor, Kernel),
        reader=reader_of(processor),
    )
    return override


def left_because(kernel: type[Kernel], call: KernelCall, in_full: bool) -> str | None:
    """Why a call stays with ComfyUI's attention, None when the kernel takes it. ``in_full``: the model asks for full
    precision, and the kernel is approximate."""
    if in_full:
        return "the model asks for full precision there"
    unfit = kernel.unfit(call) if kernel.as_operator else None
    return None if unfit is None else unfit.why


@shared
def kernel_forward(forward: Callable, override: Callable, superseded: Callable | None = None) -> Callable:
    """A class's ``forward`` with ``override`` in its ``transformer_options``.

    An override that another node put there later stays in effect; one that was there before (``superseded``) does not.
    """
    position = options_position(forward)

    def forward_with_override(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        options = options_of((args, kwargs), position)
        options = {} if options is None else options
        present = options.get(OVERRIDE, superseded)
        if gives_way(present, superseded):
            options = options.copy()  # not {**options}: a watched dict stays watched
            options[OVERRIDE] = in_place_of(present, override)
            args, kwargs = with_options((args, kwargs), position, options)
        if torch.compiler.is_compiling():
            return forward(self, *args, **kwargs)
        return computing(self, lambda: forward(self, *args, **kwargs))

    forward_with_override.__dict__.update(
        superseded=superseded,
        keeps_state=override.__dict__.get("keeps_state", False),
        as_operator=override.__dict__.get("as_operator", False),
        repeatable=override.__dict__.get("repeatable", False),
        reader=override.__dict__.get("reader"),
    )
    return forward_with_override


@shared
def module_forward(forward: Callable, processor: Computes, superseded: Callable | None = None) -> Callable:
    """A ``forward`` for ComfyUI's CrossAttention that asks the processor, unless another node has replaced attention
    later: then ``forward``, the class's own, runs."""
    takes_options = getattr(processor, "takes_options", False)

    def forward_of_processor(
        self: nn.Module,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        options = transformer_options or {}
        if not gives_way(options.get(OVERRIDE, superseded), superseded):
            return forward(self, x, context, value, mask, options)
        context, value = in_batch_of(x, context, value)
        if processor.left and is_one_of(processor.left, x, mask):
            note_given_up(self)
            note_met(self, called=False)
            return attend(_SDPA, self, x, context, mask, value)
        note_met(self, called=True)
        if takes_options:
            return processor(self, x, context, mask, value, options)
        return processor(self, x, context, mask, value)

    forward_of_processor.__dict__.update(
        superseded=superseded,
        keeps_state=isinstance(processor, Seat),
        as_operator=isinstance(processor, AsOperator),
        reader=reader_of(processor),
    )
    return forward_of_processor


def has_processor(site: nn.Module, forward: Callable | None) -> bool:
    """Whether a site's forward, with None the one that it has now, asks a processor."""
    forward = forward or site.__dict__.get("forward")
    return hasattr(getattr(forward, "__func__", None), "superseded")


def supersedes(site: nn.Module, forward: Callable | None, override: Callable) -> bool:
    """Whether a site's forward, with None the one that it has now, takes the place of an attention override that was
    there before."""
    forward = forward or site.__dict__.get("forward")
    return getattr(getattr(forward, "__func__", None), "superseded", None) is override


def keeps_state(forward: Callable) -> bool:
    """Whether a forward that was set on a module calls a processor that keeps something between calls."""
    return bool(getattr(getattr(forward, "__func__", forward), "keeps_state", False))


def readers_of(functions: Iterable[Callable]) -> Iterable[Same]:
    """The classes of processors that are handed ``transformer_options``, among those that these functions call."""
    readers = (getattr(function, "__dict__", {}).get("reader") for function in functions)
    return dict.fromkeys(Same(reader) for reader in readers if reader is not None)


def is_operator(forward: Callable) -> bool:
    """Whether a forward that was set on a module calls its processor by an operator in compiled blocks."""
    return bool(getattr(getattr(forward, "__func__", forward), "as_operator", False))


def is_repeatable(forward: Callable) -> bool:
    """Whether a forward that was set on a module may run more often than the model calls it: it asks a kernel of this
    pack, which counts no calls and draws no random numbers."""
    return bool(getattr(getattr(forward, "__func__", forward), "repeatable", False))
