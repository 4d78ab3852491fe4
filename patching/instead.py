"""Who computed a model in place of calling it as the host does, so that nothing that was put on it took part."""

from __future__ import annotations

from typing import Any

from .foreign import origin

#: Functions in ``model_options`` that are handed the model and may do without calling it.
FUNCTIONS = ("model_function_wrapper", "sampler_calc_cond_batch_function")

#: Kinds of the host's wrappers around a model call, and of those inside it, the nearest to the model first.
AROUND = ("apply_model", "calc_cond_batch", "predict_noise", "sampler_sample", "outer_sample")
INSIDE = ("diffusion_model",)

#: Position of ``sigmas`` among the arguments of ``outer_sample``.
SIGMAS = 3


def calls_expected(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a sampling with these arguments of ``outer_sample`` has steps: else nobody calls the model."""
    sigmas = args[SIGMAS] if len(args) > SIGMAS else kwargs.get("sigmas")
    return sigmas is not None and len(sigmas) > 1


class StepCount:
    """In how many of a sampling's steps the model was called as the host calls it. Some samplers ask for the model
    several times in a step, and the host calls it several times then: what was asked for is counted."""

    def __init__(self, args: tuple = (), kwargs: dict[str, Any] | None = None):
        sigmas = args[SIGMAS] if len(args) > SIGMAS else (kwargs or {}).get("sigmas")
        self._steps = 0 if sigmas is None else max(0, len(sigmas) - 1)
        self._asked = self._answered = 0
        self._waits = False
        self.calls = 0

    def asked(self) -> None:
        """The sampler wants what the model predicts."""
        self._asked += 1
        self._waits = True

    def called(self) -> None:
        self.calls += 1
        self._answered += self._waits
        self._waits = False

    def some(self, guider: Any, own: str) -> dict[str, Any] | None:
        """The record's ``unused`` where another node did some of the steps: ``{"why": "some steps", "steps": 1, "of":
        12, "by": "DeepCache", …}``; None where that was none, or all."""
        if not self._answered or self._answered == self._asked or self._steps < 2:
            return None
        took_part = round(self._answered / self._asked * self._steps)
        by = called_instead(guider, own)
        return {"why": "some steps", "steps": min(max(took_part, 1), self._steps - 1), "of": self._steps, **by}


def called_instead(guider: Any, own: str, inside: bool = False) -> dict[str, str | None]:
    """``{"by": "DeepCache", "where": "ComfyUI-deepcache.DeepCache:DeepCache.apply.<locals>.apply_model"}``, or both
    None where nobody is known who could have, or several are.

    Args:
        guider: what ``outer_sample`` was called on.
        own: the key of this pack's wrappers.
        inside: the model was called, but not its blocks.
    """
    options = getattr(guider, "model_options", None) or {}
    wrappers = (options.get("transformer_options") or {}).get("wrappers") or {}
    found = [] if inside else [options[name] for name in FUNCTIONS if options.get(name) is not None]
    for kind in INSIDE if inside else AROUND:
        found += [f for key, functions in (wrappers.get(kind) or {}).items() if key != own for f in functions]
    # Of several nobody knows which one kept the call to itself.
    return named(found[0]) if len(found) == 1 else {"by": None, "where": None}


def named(function: Any) -> dict[str, str | None]:
    """A function by a name for people, and where it comes from: the class that made it, else the pack or its file."""
    where = origin(function)
    module, _, name = where.rpartition(":")
    first = name.partition(".")[0]
    return {"by": first if first[:1].isupper() else module.partition(".")[0].lstrip("_") or name, "where": where}
