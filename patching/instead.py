"""Who computed a model in place of calling it as the host does, so that nothing that was put on it took part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .foreign import is_hosts_node, origin

#: Functions in ``model_options`` that are handed the model and may do without calling it.
FUNCTIONS = ("model_function_wrapper", "sampler_calc_cond_batch_function")

#: Kinds of the host's wrappers around a model call, and of those inside it, the nearest to the model first.
AROUND = ("apply_model", "calc_cond_batch", "predict_noise", "sampler_sample", "outer_sample")
INSIDE = ("diffusion_model",)

#: Where nobody is known who could have, or several are.
UNKNOWN: dict[str, str | None] = {"by": None, "where": None}

#: Position of ``sigmas`` among the arguments of ``outer_sample``.
SIGMAS = 3


def calls_expected(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a sampling with these arguments of ``outer_sample`` has steps: else nobody calls the model."""
    sigmas = args[SIGMAS] if len(args) > SIGMAS else kwargs.get("sigmas")
    return sigmas is not None and len(sigmas) > 1


class StepCount:
    """In how many of a sampling's steps the model's blocks were called as the host calls them. Some samplers ask for
    the model several times in a step, and the host may call it several times then: what was asked for is counted."""

    def __init__(self, args: tuple = (), kwargs: dict[str, Any] | None = None):
        sigmas = args[SIGMAS] if len(args) > SIGMAS else (kwargs or {}).get("sigmas")
        self.steps = 0 if sigmas is None else max(0, len(sigmas) - 1)
        self._asked = self._called = self._answered = self.calls = 0
        self._was_called = self._was_answered = True

    def asked(self) -> None:
        """The sampler wants what the model predicts."""
        self._asked += 1
        self._was_called = self._was_answered = False

    def called(self, ran_blocks: bool = True) -> None:
        """The model was called, and its blocks were, or something inside the model went without them."""
        self.calls += 1
        self._called += not self._was_called
        self._answered += ran_blocks and not self._was_answered
        self._was_called, self._was_answered = True, self._was_answered or ran_blocks

    def some(self, guider: Any, own: str) -> dict[str, Any] | None:
        """The record's ``unused`` where another node did some of the steps: ``{"why": "some steps", "steps": 1, "of":
        12, "by": "DeepCache", …}``; None where that was none, or all."""
        # A wrapper outside of this pack's own may have kept what the sampler asked for to itself.
        asked = max(self._asked, self.steps) if _wrappers(guider, own, ("predict_noise",)) else self._asked
        if not self._answered or self._answered >= asked or self.steps < 2:
            return None
        took_part = round(self._answered / asked * self.steps)
        by = called_instead(guider, own, inside=self._called == asked)
        return {"why": "some steps", "steps": min(max(took_part, 1), self.steps - 1), "of": self.steps, **by}


class TookPart:
    """In how many steps of a prompt: one that samples a model several times has one line for all of them."""

    def __init__(self) -> None:
        self._prompt: Any = None
        self._steps = self._of = 0
        self._unused: dict[str, Any] | None = None

    def with_earlier(self, prompt: Any, steps: int, unused: dict[str, Any] | None) -> dict[str, Any] | None:
        """The record's ``unused`` for a sampling of ``steps`` that ended, together with those before it in its prompt;
        None for ``prompt`` is a sampling of its own."""
        if prompt is None or prompt != self._prompt:
            self._prompt, self._steps, self._of, self._unused = prompt, 0, 0, None
        self._of += steps
        self._steps += steps if unused is None else unused.get("steps", 0)
        self._unused = unused or self._unused
        if self._unused is None or not self._steps:
            return self._unused
        return {**self._unused, "why": "some steps", "steps": self._steps, "of": self._of}


def called_instead(guider: Any, own: str, inside: bool = False) -> dict[str, str | None]:
    """``{"by": "DeepCache", "where": "ComfyUI-deepcache.DeepCache:DeepCache.apply.<locals>.apply_model"}``, or both
    None where nobody is known who could have, or several are.

    Args:
        guider: what ``outer_sample`` was called on.
        own: the key of this pack's wrappers.
        inside: the model was called, but not its blocks.
    """
    options = getattr(guider, "model_options", None) or {}
    functions = [] if inside else [(name, options[name]) for name in FUNCTIONS if options.get(name) is not None]
    found = functions + _wrappers(guider, own, INSIDE if inside else AROUND)
    # Of several nodes nobody knows which one kept the call to itself.
    return named(found[0][1], found[0][0]) if len({key for key, _ in found}) == 1 else UNKNOWN


class Takers:
    """Who computed attention at some places of a model in a sampling, or left its blocks out."""

    def __init__(self) -> None:
        self._found: dict[str | None, dict[str | None, dict[str, str | None]]] = {}

    def note(self, options: dict[str, Any], own: str) -> None:
        """Notes what acts in a model call with these ``transformer_options``. ``own``: the key of this pack's."""
        for name, functions in (options.get("patches_replace") or {}).items():
            for function in functions.values():
                self._add(name if name.startswith("attn") else None, named(function))
        for key, function in _of_kinds(options.get("wrappers") or {}, own, INSIDE):
            self._add(None, named(function, key))

    def _add(self, where: str | None, who: dict[str, str | None]) -> None:
        self._found.setdefault(where, {})[who["by"]] = who

    def at(self, paths: Iterable[str]) -> dict[str, str | None]:
        """Who it was at these sites, as `called_instead` says it: what replaces attention by their name, else what acts
        around blocks."""
        names = {path.rpartition(".")[2] for path in paths}
        found = [self._found[name] for name in names if name in self._found] or [self._found.get(None, {})]
        everyone = {by: who for one in found for by, who in one.items()}
        return next(iter(everyone.values())) if len(everyone) == 1 else UNKNOWN


def _wrappers(guider: Any, own: str, kinds: Sequence[str]) -> list[tuple[str, Any]]:
    options = getattr(guider, "model_options", None) or {}
    return _of_kinds((options.get("transformer_options") or {}).get("wrappers") or {}, own, kinds)


def _of_kinds(wrappers: dict[str, Any], own: str, kinds: Sequence[str]) -> list[tuple[str, Any]]:
    """Other nodes' wrappers of these kinds, each with the key under which its node put it there."""
    of_kinds = [item for kind in kinds for item in (wrappers.get(kind) or {}).items()]
    return [(str(key), function) for key, functions in of_kinds if key != own for function in functions]


def named(function: Any, key: str = "") -> dict[str, str | None]:
    """A function by a name for people, and where it comes from: the class that made it, else the pack or its file. Of
    ComfyUI's own nodes, which are one pack, the ``key`` under which it was put on the model."""
    where = origin(function)
    module, _, name = where.rpartition(":")
    first, pack = name.partition(".")[0], module.partition(".")[0].lstrip("_")
    if key and is_hosts_node(function):
        return {"by": key, "where": where}
    return {"by": first if first[:1].isupper() else pack or name, "where": where}
