"""How this pack's wrappers sit on a ModelPatcher: on a clone, under one key, undone by bypassing the node."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

#: The one key of all wrappers of this pack (comfy.patcher_extension).
KEY = "onediff"


APPLY_MODEL = "apply_model"
DIFFUSION_MODEL = "diffusion_model"
OUTER_SAMPLE = "outer_sample"
PREDICT_NOISE = "predict_noise"


@dataclass(frozen=True)
class ModelCall:
    """One call of ``apply_model``, as its wrappers are handed it. ``options`` are the ``transformer_options``, empty
    where the caller gave none. Calling it goes on to the next wrapper, or to the model; it can be called again, though
    models take what a ControlNet gives (``control``: name → tensors) out of its lists."""

    executor: Any
    x: torch.Tensor
    t: torch.Tensor
    c_concat: torch.Tensor | None
    c_crossattn: torch.Tensor | None
    control: dict[str, Any] | None
    options: dict[str, Any]
    more: dict[str, Any]

    def __call__(self) -> Any:
        control = _with_own_lists(self.control)
        return self.executor(self.x, self.t, self.c_concat, self.c_crossattn, control, self.options, **self.more)


def _with_own_lists(control: dict[str, Any] | None) -> dict[str, Any] | None:
    own = copy.copy(control)
    if own is not None:
        own.update({name: list(parts) for name, parts in own.items() if isinstance(parts, list)})
    return own


class ModelWrapper:
    """A wrapper of ``apply_model``: ``around`` is what it does."""

    def __call__(
        self,
        executor: Any,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: dict[str, Any] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        options = {} if transformer_options is None else transformer_options
        return self.around(ModelCall(executor, x, t, c_concat, c_crossattn, control, options, kwargs))

    def around(self, call: ModelCall) -> Any:
        raise NotImplementedError


def attach(model: Any, wrapper: Any, wrapper_type: str = APPLY_MODEL) -> None:
    """Adds a wrapper to a ModelPatcher under ``KEY``, in the order of ``wrapper.order``: patches first (outermost,
    those that add to others last), then what compiles (innermost, so that it sees every patched site). A wrapper of the
    same class whose order is not 0 is replaced. One that has a method ``sampling`` is put around whole samplings too,
    one that has a method ``predicting`` around each prediction that a sampler asks for.
    """
    kept = [w for w in model.get_wrappers(wrapper_type, KEY) if not (wrapper.order and type(w) is type(wrapper))]
    _set_wrappers(model, sorted([*kept, wrapper], key=_order), wrapper_type)


def _order(wrapper: Any) -> tuple[int, bool]:
    return wrapper.order, not getattr(wrapper, "takes_place", True)


def detach(model: Any, cls: type, wrapper_type: str = APPLY_MODEL) -> None:
    """Takes the wrappers of a class off a ModelPatcher; the others keep their order."""
    _set_wrappers(model, [w for w in model.get_wrappers(wrapper_type, KEY) if not isinstance(w, cls)], wrapper_type)


def further_in(wrapper: Any, options: dict[str, Any], wrapper_type: str = APPLY_MODEL) -> list[Any]:
    """This pack's own wrappers of a model call with these options that run inside a wrapper."""
    ours = ((options.get("wrappers") or {}).get(wrapper_type) or {}).get(KEY) or []
    return ours[ours.index(wrapper) + 1 :] if wrapper in ours else []


def _set_wrappers(model: Any, wrappers: list[Any], wrapper_type: str) -> None:
    samplings = [wrapper.sampling for wrapper in wrappers if hasattr(wrapper, "sampling")]
    predictions = [wrapper.predicting for wrapper in wrappers if hasattr(wrapper, "predicting")]
    for kind, functions in ((wrapper_type, wrappers), (OUTER_SAMPLE, samplings), (PREDICT_NOISE, predictions)):
        model.remove_wrappers_with_key(kind, KEY)
        for function in functions:
            model.add_wrapper_with_key(kind, KEY, function)


def attached(model: Any, cls: type, wrapper_type: str = APPLY_MODEL) -> list[Any]:
    """The wrappers of a class that sit on a ModelPatcher."""
    return [w for w in model.get_wrappers(wrapper_type, KEY) if isinstance(w, cls)]
