"""How this pack's wrappers sit on a ModelPatcher: on a clone, under one key, undone by bypassing the node."""

from __future__ import annotations

from typing import Any

#: The one key of all wrappers of this pack (comfy.patcher_extension).
KEY = "onediff"


APPLY_MODEL = "apply_model"


OUTER_SAMPLE = "outer_sample"


PREDICT_NOISE = "predict_noise"


def attach(model: Any, wrapper: Any, wrapper_type: str = APPLY_MODEL) -> None:
    """Adds a wrapper to a ModelPatcher under ``KEY``, in the order of ``wrapper.order``: patches first (outermost),
    then what compiles (innermost, so that it sees every patched site). A wrapper of the same class whose order is not 0
    is replaced. One that has a method ``sampling`` is put around whole samplings too, one that has a method
    ``predicting`` around each prediction that a sampler asks for.
    """
    kept = [w for w in model.get_wrappers(wrapper_type, KEY) if not (wrapper.order and type(w) is type(wrapper))]
    _set_wrappers(model, sorted([*kept, wrapper], key=lambda w: w.order), wrapper_type)


def detach(model: Any, cls: type, wrapper_type: str = APPLY_MODEL) -> None:
    """Takes the wrappers of a class off a ModelPatcher; the others keep their order."""
    _set_wrappers(model, [w for w in model.get_wrappers(wrapper_type, KEY) if not isinstance(w, cls)], wrapper_type)


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
