"""Whether the processor of a patch takes part in a sampling, and at how many of its sites."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from ..patching.foreign import OVERRIDE
from ..patching.instead import StepCount, called_instead, calls_expected, named
from ..patching.wrappers import further_in
from .elsewhere import given_up_at, left_at

if TYPE_CHECKING:
    from .attention_patch import AttentionPatch

Forwards = list[tuple[nn.Module, Callable]]


class SiteCalls:
    """Of one sampling. What is compiled is not counted: a graph does not tell, and would be compiled anew for it."""

    def __init__(self, patch: AttentionPatch, key: str, args: tuple = (), kwargs: dict[str, Any] | None = None):
        self.steps = StepCount(args, kwargs)
        self._patch_ref = weakref.ref(patch)  # it holds this, and modules of a model that must go when nobody uses it
        self._key = key
        self._calls = 0
        self._reached: set[str] = set()
        self._counts: bool | None = None
        self._called = self._entered = False
        self._taken: list[dict[str, str | None]] = []  # what took all sites, one a call in which something did
        #: Calls that went to PyTorch's attention, because the processor fails in such; those in graphs aside.
        self.by_sdpa = 0
        #: Calls that stayed with ComfyUI's attention, because the processor cannot take such, by reason.
        self.left: Counter[str] = Counter()

    @property
    def _patch(self) -> AttentionPatch:
        patch = self._patch_ref()
        assert patch is not None
        return patch

    @property
    def reached(self) -> int | None:
        """Sites at which the processor was called; None where that was not counted."""
        return len(self._reached) if self._counts and self._calls else None

    def have_reached(self, paths: Iterable[str]) -> None:
        """The sites are others from now on, and the model has called these of them."""
        self._reached = set(paths)

    def unused(self, executor: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """The record's ``unused``, for a call of ``outer_sample``; None when the processor took part."""
        if not self._patch.sites or not calls_expected(args, kwargs):
            return None
        guider = getattr(executor, "class_obj", None)
        if not self._calls:
            return {"why": "not called", **called_instead(guider, self._key)}
        if len(self._taken) == self._calls:
            return {"why": "not reached", **self._taken[-1]}
        if self.reached == 0:
            return {"why": "not reached", **called_instead(guider, self._key, inside=True)}
        return self.steps.some(guider, self._key)

    @contextmanager
    def counted(self, executor: Any, options: dict[str, Any]) -> Iterator[Forwards]:
        """One model call. Yields the forwards of the patched sites, which count themselves where they can."""
        self._calls += 1
        own = self.own(options)
        taken = self._taken_by(options, own)
        if taken is not None:
            self._taken.append(taken)
        if self._counts is None:
            self._counts = not self._is_compiled(getattr(executor, "class_obj", None), options)
        given_up, left = given_up_at(own.values()), left_at(own.values())
        self._entered = not self._counts  # compiled code does not tell
        try:
            if not self._counts:
                yield self._patch.forwards
            else:
                with self._noting() as forwards:
                    yield forwards
        finally:
            self.by_sdpa += given_up_at(own.values()) - given_up
            self.left += left_at(own.values()) - left
        self.steps.called(self._entered)

    @contextmanager
    def _noting(self) -> Iterator[Forwards]:
        left = len(self._reached) < len(self._patch.sites)
        hooks = [one.register_forward_pre_hook(self._note_call) for one in self._patch.instances.all] if left else []
        try:
            paths = [site.path for site in self._patch.sites]
            both = zip(self._patch.forwards, paths, strict=True)
            yield [(module, self._counting(forward, path)) for (module, forward), path in both]
        finally:
            for hook in hooks:
                hook.remove()
        self.steps.called(self._entered)

    def _counting(self, forward: Callable, path: str) -> Callable:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self._called, self._entered = False, True
            result = forward(*args, **kwargs)
            if self._called:
                self._reached.add(path)
            return result

        return counting

    def _note_call(self, *_: Any) -> None:
        self._called = True

    def own(self, options: dict[str, Any]) -> dict[str, nn.Module]:
        """The sites that no patch further in takes, by path, with their modules."""
        takes = [other for other in further_in(self._patch, options) if getattr(other, "takes_place", False)]
        others = {site.path for other in takes for site in other.sites}
        return {site.path: site.module for site in self._patch.sites if site.path not in others}

    def _taken_by(self, options: dict[str, Any], own: dict[str, nn.Module]) -> dict[str, str | None] | None:
        """What computes attention at all sites of the patch in this call, None when nothing that is known does."""
        if not self._patch.takes_place:  # it adds to whatever computes
            return None
        override = options.get(OVERRIDE, self._patch.superseded)
        if override is not self._patch.superseded:
            return named(override)
        return None if own else {"by": "Patch Attention Processors", "where": None}

    def _is_compiled(self, base_model: Any, options: dict[str, Any]) -> bool:
        """Whether the model, or a part of it, may run compiled: by this pack or by another node."""
        if any(not hasattr(wrapper, "sites") for wrapper in further_in(self._patch, options)):
            return True
        if "torch.compile" in ((options.get("wrappers") or {}).get("apply_model") or {}):
            return True
        model = getattr(base_model, "diffusion_model", None)
        modules = model.modules() if isinstance(model, nn.Module) else ()
        return any("_orig_mod" in module._modules or module._compiled_call_impl is not None for module in modules)
