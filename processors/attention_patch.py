"""Attaching processors to a ModelPatcher, and taking them off again.

Everything this pack puts on a MODEL sits on a clone under one key. A patched site is an instance ``forward`` that is
set around the model call and removed after it, so bypassing the node leaves nothing behind and the weights keep their
names.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import nn

from ..patching.calls import accepts_options
from ..patching.forwards import Later, swapped_attributes, swapped_forwards
from ..patching.instead import TookPart
from ..patching.user_code import Attendance
from ..patching.wrappers import KEY, ModelCall, ModelWrapper
from .authored.instances import AT_SITE, Computes, Instances
from .called_sites import Place, places_of
from .contract import KernelProcessor, ModuleProcessor, Processor
from .finite import sampled_finite
from .kernels.kernel import Kernel
from .overriding import kernel_forward, kernel_override, module_forward
from .random_numbers import defaults_kept
from .site_calls import Because, SiteCalls
from .sites.find import Site

T = TypeVar("T")


def plain_tensor(result: Any) -> Any:
    """A tensor of a class that somebody derived, as torch's own: its code would go on running in the sampler."""
    if not issubclass(type(result), torch.Tensor) or type(result) is torch.Tensor:
        return result
    with torch._C.DisableTorchFunctionSubclass():
        return torch.Tensor.as_subclass(result, torch.Tensor)


def not_patchable_reason(site: Site, processor: Processor) -> str | None:
    """Why a processor cannot take a site's place, None when it can."""
    name = type(site.module).__name__
    if isinstance(processor, ModuleProcessor) and not site.has_projections:
        return f"{name} does not compute attention from to_q, to_k, to_v and to_out alone, which this processor needs"
    if isinstance(processor, KernelProcessor) and not accepts_options(type(site.module).forward):
        return f"ComfyUI passes {name} no transformer_options, through which a processor is reached"
    return None


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
    calls)`` when a sampling has ended: why the processor took no part in those of its ``prompt()``, or in how many of
    their steps; and what its calls were. ``failed(error)`` gives what is raised for what a model call raised.
    """

    order = 0

    #: Whether the processors are chosen by this patch itself, among those that the pack brings; and whether the next
    #: model call is the one that decides.
    chooses, deciding = False, False

    #: What it gained, as the record has it; None where that is not known.
    gain: dict[str, Any] | None = None
    #: Whether its processor takes the place of what computes attention; else it adds to that.
    takes_place = True

    def __init__(
        self,
        sites: list[Site],
        processor: Processor,
        observe: Callable[[dict[str, Any]], None],
        superseded: Callable | None = None,
        name: str = "custom",
        ended: Callable[[dict[str, Any] | None, SiteCalls], None] = lambda unused, calls: None,
        failed: Callable[[BaseException], BaseException] = lambda error: error,
        attendance: Callable[[], Attendance] = Attendance,
        prompt: Callable[[], Any] = lambda: None,
    ):
        self.sites = sites
        self.processor = processor
        self.described = [{"site": site.path, "processor": name} for site in sites]
        self.instances = self._made_instances(processor, sites, attendance)
        self.observe = observe
        self.ended = ended
        self.failed = failed
        self.prompt = prompt
        self.took_part = TookPart()
        self._had_effect_in: Any = None
        self.seen: Any = None
        self.superseded = superseded
        self.calls = SiteCalls(self, KEY)
        self.within, self.sigmas = False, None
        self._later = Later()
        #: What the node was asked for and did not take, and ``by`` which node; for checks of the model behind it.
        self.rejected: dict[str, str] | None = None
        self._set_forwards()

    def _made_instances(self, processor: Processor, sites: list[Site], attendance: Callable[[], Attendance]) -> Any:
        return Instances(processor, sites, attendance)

    def _set_forwards(self) -> None:
        self.called_as = self.instances.called_as
        self.forwards: list[tuple[nn.Module, Callable]] = [
            (site.module, site_forward(site, self.processor, self.superseded, self.instances.computes(site)))
            for site in self.sites
        ]
        self.places: dict[Place, str] = places_of(self.sites)

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of one whole sampling (``outer_sample``): looks whether the processor took part in it."""
        self.calls = SiteCalls(self, KEY, args, kwargs)
        self.begin_sampling()
        self.within = True
        try:
            result = self._failing_as_told(lambda: executor(*args, **kwargs))
        finally:
            self.within = False
            self.begin_sampling()  # lets go of what this one kept
        self.calls.gave_numbers = sampled_finite(result)
        unused = self.calls.unused(executor, args, kwargs)
        unused = self.took_part.with_earlier(self.prompt(), self.calls.steps.steps, unused)
        self.ended(unused or self._without_effect(), self.calls)
        return result

    @property
    def keeps_state(self) -> bool:
        """Whether its processor keeps something between calls, so that one call more changes the picture."""
        return bool(getattr(self.instances, "keeps_state", False))

    def adds_nothing(self) -> Because | None:
        """Why the processor changed nothing in the sampling that ends, for a value that it was given."""
        return None

    def _without_effect(self) -> dict[str, Any] | None:
        """The record's ``unused`` where it changed nothing, in no sampling of a prompt."""
        because, prompt = self.adds_nothing(), self.prompt()
        if because is None:
            self._had_effect_in = prompt
        elif prompt is None or prompt != self._had_effect_in:
            return {"why": "adds nothing", "because": because, "by": None, "where": None}
        return None

    def begin_sampling(self) -> None:
        self._failing_as_told(self.instances.begin_sampling)  # what people keep may be anything

    def _failing_as_told(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except BaseException as error:
            instead = self.failed(error)
            if instead is error:
                raise
        raise instead  # with no word of the other, which may raise when it is shown

    def predicting(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of what a sampler asks for in a step (``predict_noise``)."""
        self.calls.steps.asked()
        return executor(*args, **kwargs)

    def around(self, call: ModelCall) -> Any:
        sampling = call.options.get("sample_sigmas")
        if sampling is None or sampling is not self.seen:
            self.seen = sampling
            self.observe(call.options)
        return self._failing_as_told(lambda: self._computed(call, sampling))

    def _computed(self, call: ModelCall, sampling: Any) -> Any:
        self._bring_instances(sampling)
        with (
            self.calls.counted(call.executor, call.options),
            swapped_forwards(self._later.without(self.forwards)),
            swapped_attributes(AT_SITE, self.instances.attributes()),
            defaults_kept(),
            self.while_sampling(call.x.device if isinstance(call.x, torch.Tensor) else torch.device("cpu")),
        ):
            result = call()
        self.instances.end_call()
        return plain_tensor(result)

    def while_sampling(self, device: torch.device) -> AbstractContextManager[None]:
        """Open while a model call runs on this device."""
        return self.processor.while_sampling(device)

    def note_uncompiled(self, milliseconds: float) -> None:
        """The model call that runs was made uncompiled to be compared with compiled ones, and timed."""

    def _bring_instances(self, sampling: Any) -> None:
        """Those of this sampling. In a loop that a node has of its own, one is told from the next by its sigmas."""
        if not self.within and sampling is not self.sigmas:
            self.instances.begin_sampling()
        self.sigmas = sampling
        if self.called_as != self.instances.called_as:  # a check, or the last model call, has shown more
            self._set_forwards()
        self.instances.begin_call()


def processors_of(patches: Iterable[AttentionPatch]) -> list[tuple[Site, Processor]]:
    """The patched sites with the processor that computes each, as far as it is to be checked: the last patch's, where
    several mean the same site."""
    last = {
        site.path: (site, None if patch.chooses else patch.instances.to_check(site))
        for patch in patches
        if patch.takes_place
        for site in patch.sites
    }
    return [(site, processor) for site, processor in last.values() if processor is not None and not _proven(processor)]


def _proven(processor: Processor) -> bool:
    """Whether it is not checked as people's processors are: it is the pack's own, or was proven on its device."""
    return isinstance(processor, Kernel) and processor.as_operator
