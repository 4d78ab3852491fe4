"""A copy of a ControlNet, or of what ComfyUI hands round as one, whose blocks run compiled while a model is sampled."""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from ...compilers import CallSession
from ...memo import cached
from ..known_values import has
from .rebuilt import Rebuilt

log = logging.getLogger(__name__)

#: Where ComfyUI's classes have their model: ControlNets and ControlLoRAs, T2I-Adapters.
_PLACES = ("control_model", "t2i_model")


def is_control_net(value: Any) -> bool:
    """Whether this is one of ComfyUI's, or does as one."""
    return has(value, "get_control", "copy", "pre_run", "cleanup")


def model_of(control: Any) -> nn.Module | None:
    """Its model; None for a ControlLoRA, which makes one from each model that it is used with, and where it has none
    that is known."""
    found = (getattr(control, place, None) for place in _PLACES)
    return next((model for model in found if isinstance(model, nn.Module)), None)


def dtype_of(control: Any) -> torch.dtype:
    """What it computes in."""
    model = model_of(control)
    stored = None
    try:
        stored = (
            next((p.dtype for p in model.parameters() if p.is_floating_point()), None) if model is not None else None
        )
    except Exception:  # another pack's may raise when it is looked at: what looks at all of it says so
        log.debug("the dtype of %s could not be seen", type(model).__name__, exc_info=True)
    return getattr(control, "manual_cast_dtype", None) or stored or torch.float32


def with_session(control: Any, session: CallSession) -> Any:
    """A copy that shares the model and its weights, and calls the model through a session, as copies of the copy do. A
    session that was there before is replaced."""
    base = getattr(type(control), "onediff_base", type(control))
    copied = base.copy(control)
    copied.previous_controlnet = control.previous_controlnet
    return _given(copied, base, Shared(session))


def session_of(control: Any) -> CallSession | None:
    """The session of such a copy, None for any other."""
    shared = getattr(control, "onediff_shared", None)
    return None if shared is None else shared.session


class Shared:
    """What the copies of one node share: a session, which begins when the first of them is about to be used, and ends
    when the last has been; and the model that a ControlLoRA makes.

    After Cancel, and wherever a sampling fails, ComfyUI does not say that it is over. So a use also ends when one of
    them raises, and where the next sampling shows: that is of another prompt or node, or begins with one that was
    called already. One that stands in both prompts is begun twice before it is called.
    """

    def __init__(self, session: CallSession):
        self.session = session
        self.rebuilt = Rebuilt()
        self._in_use: WeakSet[Any] = WeakSet()
        self._called: WeakSet[Any] = WeakSet()
        self._of: tuple[Any, ...] = ()

    def begin(self, control: Any) -> None:
        asks = (self.session.host.prompt(), self.session.host.sampler())
        if asks != self._of or control in self._called or not self._in_use:
            self.break_off()
        self._of = asks
        model = model_of(control)
        if model is not None and not self.session.during.now:
            try:
                self.session.begin(model, dtype_of(control))
            except BaseException:
                self.break_off()
                raise
        self._in_use.add(control)

    def called(self, control: Any) -> None:
        self._called.add(control)

    def break_off(self) -> None:
        """Ends a use that has not come to its end."""
        self._in_use.clear()
        self._called.clear()
        if self.session.during.now:
            self.session.end(broke_off=True)

    def end(self, control: Any) -> None:
        self._in_use.discard(control)
        self._called.discard(control)
        if not self._in_use and self.session.during.now:
            self.session.end()


class Calls:
    """Stands in for the model while it is used: calling it goes through the session, everything else is the model's."""

    def __init__(self, model: nn.Module, session: CallSession):
        self._model, self._session = model, session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._session.module is not self._model:
            self._session.during.note_beside(self._model)
            return self._model(*args, **kwargs)
        return self._session.call("forward", self._model, (args, kwargs))


def _given(control: Any, base: type, shared: Shared) -> Any:
    control.__class__ = _class(base)
    control.onediff_shared = shared
    return control


@cached
def _class(base: type) -> type:
    """The class of copies of a class."""

    def copy(self: Any) -> Any:
        return _given(base.copy(self), base, self.onediff_shared)  # type: ignore[attr-defined]

    def pre_run(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        result = base.pre_run(self, model, *args, **kwargs)  # type: ignore[attr-defined]
        shared: Shared = self.onediff_shared
        if hasattr(self, "control_weights"):
            self.control_model = shared.rebuilt.with_weights_of(self.control_model)
        shared.begin(self)
        return result

    def cleanup(self: Any) -> Any:
        try:
            return base.cleanup(self)  # type: ignore[attr-defined]
        finally:
            shared: Shared = self.onediff_shared
            shared.end(self)
            if not shared.session.during.now:
                shared.rebuilt.let_go()

    def get_control(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = model_of(self)
        if model is None:
            return base.get_control(self, *args, **kwargs)  # type: ignore[attr-defined]
        shared: Shared = self.onediff_shared
        shared.called(self)
        place = next(name for name in _PLACES if getattr(self, name, None) is model)
        try:
            with shared.session.using(model, dtype_of(self)):
                setattr(self, place, Calls(model, shared.session))
                return base.get_control(self, *args, **kwargs)  # type: ignore[attr-defined]
        except BaseException:  # Cancel among others
            shared.break_off()
            raise
        finally:
            setattr(self, place, model)

    members = {"copy": copy, "pre_run": pre_run, "cleanup": cleanup, "get_control": get_control}
    return type(base.__name__, (base,), {"__module__": base.__module__, "onediff_base": base, **members})
