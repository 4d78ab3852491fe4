"""A copy of a VAE whose blocks run compiled while it encodes or decodes."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from ...compilers import CallSession
from ...memo import cached
from ..known_values import has

#: What others call of a VAE, and a VAE of its model.
METHODS = ("decode", "encode", "decode_tiled", "encode_tiled")


def is_vae(value: Any) -> bool:
    """Whether this is ComfyUI's VAE, or does as one."""
    return has(value, "first_stage_model", "patcher", "decode", "encode")


def with_session(vae: Any, session: CallSession) -> Any:
    """A copy of the VAE that shares its model and weights, and calls the model through a session. A session that was
    there before is replaced."""
    copied = copy.copy(vae)
    base = getattr(type(vae), "onediff_base", type(vae))
    copied.__class__ = _class(base)
    copied.onediff_session = session
    return copied


def session_of(vae: Any) -> CallSession | None:
    """The session of such a copy, None for any other VAE."""
    return getattr(vae, "onediff_session", None)


class Calls:
    """Stands in for a VAE's model while the VAE is used: what is called goes through the session, everything else is
    the model's."""

    def __init__(self, model: Any, session: CallSession):
        self._model, self._session = model, session

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        return partial(self._call, name, value) if name in METHODS else value

    def _call(self, name: str, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._session.call(name, method, (args, kwargs))


@cached
def _class(base: type) -> type:
    """The class of copies of VAEs of a class."""
    members: dict[str, Any] = {name: _method(base, name) for name in METHODS if hasattr(base, name)}
    return type(base.__name__, (base,), {"__module__": base.__module__, "onediff_base": base, **members})


def _method(base: type, name: str) -> Any:
    plain = getattr(base, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = self.first_stage_model
        if model is None or isinstance(model, Calls):
            return plain(self, *args, **kwargs)
        session: CallSession = self.onediff_session
        with session.using(model, self.vae_dtype):
            self.first_stage_model = Calls(model, session)
            try:
                return plain(self, *args, **kwargs)
            finally:
                self.first_stage_model = model

    method.__name__ = name
    return method
