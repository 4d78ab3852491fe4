"""Attaching processors to a ModelPatcher, and taking them off again.

Everything this pack puts on a MODEL sits on a clone under one key. A patched site is an instance ``forward`` that is
set around the model call and removed after it, so bypassing the node leaves nothing behind and the weights keep their
names.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..memo import shared
from ..patching.calls import accepts_options, options_of, options_position, with_options
from ..patching.foreign import OVERRIDE
from ..patching.forwards import swapped_attributes, swapped_forwards
from ..patching.instead import TookPart
from ..patching.user_code import Attendance
from ..patching.wrappers import KEY, ModelCall, ModelWrapper
from .authored.instances import AT_SITE, AsOperator, Computes, Instances, Seat, reader_of
from .built_in.sdpa import SDPAProcessor
from .built_in.shapes import attend
from .contract import KernelProcessor, ModuleProcessor, Processor
from .elsewhere import computing, is_one_of, note_given_up
from .loaded.added import gives_way, in_place_of
from .random_numbers import default_dtype_kept
from .site_calls import SiteCalls
from .sites.find import Site

_SDPA = SDPAProcessor().eval()


@shared
def kernel_override(processor: Computes) -> Callable:
    """The processor as an ``optimized_attention_override``; one function a processor, so compiled graphs are shared."""
    takes_options = getattr(processor, "takes_options", False)

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
        if processor.left and is_one_of(processor.left, q, mask, skip_reshape, skip_output_reshape):
            note_given_up()
            return _SDPA(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa)
        if takes_options:
            options = kwargs.get("transformer_options")
            return processor(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa, options)
        return processor(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa)

    override.__dict__.update(
        keeps_state=isinstance(processor, Seat),
        as_operator=isinstance(processor, AsOperator),
        reader=reader_of(processor),
    )
    return override


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
        if processor.left and is_one_of(processor.left, x, mask):
            note_given_up(self)
            return attend(_SDPA, self, x, context, mask, value)
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


def not_patchable_reason(site: Site, processor: Processor) -> str | None:
    """Why a processor cannot take a site's place, None when it can."""
    name = type(site.module).__name__
    if isinstance(processor, ModuleProcessor) and not site.has_projections:
        return f"{name} does not compute attention from to_q, to_k, to_v and to_out alone, which this processor needs"
    if isinstance(processor, KernelProcessor) and not accepts_options(type(site.module).forward):
        return f"ComfyUI passes {name} no transformer_options, through which a processor is reached"
    return None


def keeps_state(forward: Callable) -> bool:
    """Whether a forward that was set on a module calls a processor that keeps something between calls."""
    return bool(getattr(getattr(forward, "__func__", forward), "keeps_state", False))


def is_operator(forward: Callable) -> bool:
    """Whether a forward that was set on a module calls its processor by an operator in compiled blocks."""
    return bool(getattr(getattr(forward, "__func__", forward), "as_operator", False))


def site_forward(
    site: Site, processor: Processor, superseded: Callable | None = None, computes: Computes | None = None
) -> types.MethodType:
    """The ``forward`` of a patched site. ``superseded`` is the attention override that was on the model before,
    ``computes`` what is called in the place of the processor, as it is.

    Raises:
        TypeError: for a site where this processor cannot be used.
    """
    reason = not_patchable_reason(site, processor)
    if reason is not None:
        raise TypeError(f"{site.path}: {reason}")
    forward, computes = type(site.module).forward, computes or processor
    if isinstance(processor, ModuleProcessor):
        return types.MethodType(module_forward(forward, computes, superseded), site.module)
    return types.MethodType(kernel_forward(forward, kernel_override(computes), superseded), site.module)


class AttentionPatch(ModelWrapper):
    """The sites that one node patched, as a wrapper of ``apply_model``.

    ``observe(options)`` is called once a sampling with the ``transformer_options``, for the record; ``ended(unused,
    reached, by_sdpa)`` when a sampling has ended: why the processor took no part in those of its ``prompt()``, or in
    how many of their steps; at how many sites it was called, None where compiled code ran, which does not tell; and how
    many calls went to PyTorch's attention, because it fails in such, those in graphs aside. ``failed(error)`` gives
    what is raised for what a model call raised.
    """

    order = 0

    #: Whether its processor takes the place of what computes attention; else it adds to that.
    takes_place = True

    def __init__(
        self,
        sites: list[Site],
        processor: Processor,
        observe: Callable[[dict[str, Any]], None],
        superseded: Callable | None = None,
        name: str = "custom",
        ended: Callable[[dict[str, Any] | None, int | None, int], None] = lambda unused, reached, by_sdpa: None,
        failed: Callable[[BaseException], BaseException] = lambda error: error,
        attendance: Callable[[], Attendance] = Attendance,
        prompt: Callable[[], Any] = lambda: None,
    ):
        self.sites = sites
        self.processor = processor
        self.described = [{"site": site.path, "processor": name} for site in sites]
        self.instances = Instances(processor, sites, attendance)
        self.observe = observe
        self.ended = ended
        self.failed = failed
        self.prompt = prompt
        self.took_part = TookPart()
        self.seen: Any = None
        self.superseded = superseded
        self.calls = SiteCalls(self, KEY)
        self.within, self.sigmas = False, None
        #: What the node was asked for and did not take, and ``by`` which node; for checks of the model behind it.
        self.rejected: dict[str, str] | None = None
        self._set_forwards()

    def _set_forwards(self) -> None:
        self.called_as = self.instances.called_as
        self.forwards: list[tuple[nn.Module, Callable]] = [
            (site.module, site_forward(site, self.processor, self.superseded, self.instances.computes(site)))
            for site in self.sites
        ]

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of one whole sampling (``outer_sample``): looks whether the processor took part in it."""
        self.calls = SiteCalls(self, KEY, args, kwargs)
        self._begin_sampling()
        self.within = True
        try:
            result = executor(*args, **kwargs)
        finally:
            self.within = False
            self._begin_sampling()  # lets go of what this one kept
        unused = self.calls.unused(executor, args, kwargs)
        unused = self.took_part.with_earlier(self.prompt(), self.calls.steps.steps, unused)
        self.ended(unused, self.calls.reached, self.calls.by_sdpa)
        return result

    def _begin_sampling(self) -> None:
        try:
            self.instances.begin_sampling()
            return
        except BaseException as error:  # what people keep may be anything
            instead = self.failed(error)
            if instead is error:
                raise
        raise instead

    def predicting(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of what a sampler asks for in a step (``predict_noise``)."""
        self.calls.steps.asked()
        return executor(*args, **kwargs)

    def around(self, call: ModelCall) -> Any:
        sampling = call.options.get("sample_sigmas")
        if sampling is None or sampling is not self.seen:
            self.seen = sampling
            self.observe(call.options)
        try:
            self._bring_instances(sampling)
            with (
                self.calls.counted(call.executor, call.options) as forwards,
                swapped_forwards(forwards),
                swapped_attributes(AT_SITE, self.instances.attributes()),
                default_dtype_kept(),
            ):
                result = call()
            self.instances.end_call()
            return result
        except BaseException as error:
            instead = self.failed(error)
            if instead is error:
                raise
        raise instead  # with no word of the other, which may raise when it is shown

    def _bring_instances(self, sampling: Any) -> None:
        """Those of this sampling. In a loop that a node has of its own, one is told from the next by its sigmas."""
        if not self.within and sampling is not self.sigmas:
            self.instances.begin_sampling()
        self.sigmas = sampling
        if self.called_as != self.instances.called_as:  # a check, or the last model call, has shown more
            self._set_forwards()
        self.instances.begin_call()


def processors_of(patches: Iterable[AttentionPatch]) -> list[tuple[Site, Processor]]:
    """The patched sites with the processor that computes each: the last patch's, where several mean the same site."""
    taking = ((patch, site) for patch in patches if patch.takes_place for site in patch.sites)
    return list({site.path: (site, patch.instances.to_check(site)) for patch, site in taking}.values())
