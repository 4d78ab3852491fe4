"""``auto``: in the first step the kernels that could be used are tried on the attention of the model, and the fastest
one is put where it is faster than what was there."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, cast

import torch
from torch import nn

from ...patching.foreign import HOSTS_OWN, OVERRIDE
from ...patching.wrappers import ModelCall
from ..attention_patch import site_forward
from ..authored.instances import Computes, Instances
from ..called_sites import places_of
from ..contract import Processor
from ..registry import DEFAULT_PROCESSOR, get_processor
from ..sites.find import Site
from .candidates import Candidate
from .decision import Choice, Decision, decide, table
from .host_call import Shape
from .kept import key_of
from .measured_patch import MeasuredPatch, paths_digest
from .trial import Result, Trial

#: The name under which a workflow asks for this.
AUTO = "auto"


class ByKernel:
    """What computes at the sites of a patch, each with a kernel of its own: as `Instances`, of processors that keep
    nothing."""

    per_site = keeps_state = False

    def __init__(self, names: Mapping[str, str]):
        self.names = dict(names)

    @property
    def all(self) -> list[Processor]:
        return [get_processor(name) for name in dict.fromkeys(self.names.values())]

    @property
    def called_as(self) -> tuple:
        """What decides how forwards call it."""
        return tuple(self.names.items())

    def to_check(self, site: Site) -> Processor:
        return get_processor(self.names[site.path])

    def computes(self, site: Site) -> Computes:
        return Instances(self.to_check(site), [site]).computes(site)

    def attributes(self) -> list[tuple[nn.Module, Processor]]:
        return []

    def begin_sampling(self) -> None:
        return None

    def begin_call(self) -> None:
        return None

    def end_call(self) -> None:
        return None

    def kept(self) -> None:
        return None


class AutoPatch(MeasuredPatch):
    """``candidates()`` are asked for when they are needed: one may be proven by then. ``is_left``: without sites, there
    are some that another node has taken.

    Until it has decided, the kernel that is expected to win sits at all sites, so that what is learned of blocks in the
    first step holds afterwards. In that step it is what was there that computes.
    """

    chooses = True

    def __init__(
        self,
        sites: list[Site],
        observe: Callable[[dict[str, Any]], None],
        *args: Any,
        quality: str,
        candidates: Callable[[], list[Candidate]],
        is_left: bool = True,
        **kwargs: Any,
    ):
        self.quality, self.candidates = quality, candidates
        self.all_sites = list(sites)
        self.state, self._is_overridden = "deciding", False
        names = [one.name for one in candidates() if one.reason is None]
        expected = self._expected = DEFAULT_PROCESSOR if DEFAULT_PROCESSOR in names or not names else names[0]
        self.instances = ByKernel({site.path: expected for site in sites})
        super().__init__(sites, get_processor(expected), observe, *args, name=AUTO, **kwargs)
        if self.decision is not None:
            self._take(self.decision)
        elif not sites:
            self._tries, self.state = False, "left" if is_left else "untried"

    @property
    def deciding(self) -> bool:  # type: ignore[override]
        """Whether the next model call is the one that decides."""
        return self._tries

    def around(self, call: ModelCall) -> Any:
        if self._calls == 0 and self.decision is not None and self._is_outdated(call):
            self._begin_again()
        return super().around(call)

    def _is_outdated(self, call: ModelCall) -> bool:
        """Whether what was decided was cleared since, or nothing could be tried for an override that is gone."""
        if self._epoch != self.choices.epoch:
            return bool(self.all_sites)
        assert self.decision is not None
        return self._is_overridden and not self.decision.by_site and not self._overridden(call)

    def _begin_again(self) -> None:
        self.decision, self._tries, self.state, self._epoch = None, True, "deciding", self.choices.epoch
        self.sites = list(self.all_sites)
        self.described = [{"site": site.path, "processor": AUTO} for site in self.sites]
        self.instances = ByKernel({site.path: self._expected for site in self.sites})
        self._set_forwards()

    def _overridden(self, call: ModelCall) -> bool:
        override = call.options.get(OVERRIDE, self.superseded)
        return override is not self.superseded and not getattr(override, HOSTS_OWN, False)

    @property
    def key(self) -> str:
        return f"{AUTO} {self.quality} {paths_digest(self.all_sites)}"

    def _made_instances(self, processor: Processor, sites: list[Site], attendance: Any) -> Any:
        return self.instances

    def _set_forwards(self) -> None:
        self.called_as = self.instances.called_as
        self.forwards: list[tuple[nn.Module, Callable]] = [(site.module, self._forward(site)) for site in self.sites]
        self.places = places_of(self.sites)

    def _forward(self, site: Site) -> types.MethodType:
        return site_forward(site, self.instances.to_check(site), self.superseded, self.instances.computes(site))

    def while_sampling(self, device: torch.device) -> AbstractContextManager[None]:
        stack = ExitStack()
        if not self.deciding:
            for kernel in self.instances.all:
                stack.enter_context(kernel.while_sampling(device))
        return cast("AbstractContextManager[None]", stack)

    @property
    def is_timed(self) -> bool:
        """What it tries it has timed."""
        return True

    def _new_trial(self, call: ModelCall) -> Trial:
        usable = {one.name: one.kernel for one in self.candidates() if one.reason is None}
        kept: dict[Shape, Choice] = {}
        trial = self._trial(call, list(usable.items()), named=None)

        def on_disk(shape: Shape) -> Choice | None:
            assert trial.hosts is not None
            return self.choices.at_shape(key_of(call.x.device, self.quality, trial.hosts), shape)

        def known(shape: Shape) -> Any:
            if shape not in kept:
                choice = on_disk(shape)
                if choice is None or not usable.keys() <= {result.name for result in choice.results}:
                    raise KeyError(shape)  # one was proven since, or what kept it from being tried may be gone
                if choice.kernel is not None and choice.kernel not in usable:
                    raise KeyError(shape)
                kept[shape] = choice
            name = kept[shape].kernel
            return None if name is None else usable[name]

        def earlier(shape: Shape) -> tuple[Result, ...]:
            choice = on_disk(shape)
            return () if choice is None else choice.results

        trial.known, trial.earlier, self._kept = known, earlier, kept
        self._is_overridden = self._overridden(call)
        return trial

    def _learn(self, trial: Trial) -> None:
        decision = decide(trial.measured, self._kept)
        decision.spent_ms, decision.size = trial.spent, self._shape
        if trial.measured:
            assert trial.hosts is not None
            self.choices.keep(key_of(trial.device, self.quality, trial.hosts), decision, self._kept)
            if self.model is not None:
                self.choices.note(self.model, self.key, decision)
        self.decision = decision
        self._take(decision)
        self.calls.have_reached(site.path for site in self.sites)  # each was seen to be called
        self.tell()

    def _take(self, decision: Decision) -> None:
        """Puts the kernels that were chosen where they were chosen, and takes the expected one away elsewhere."""
        self._tries = False
        chosen = {path: name for path, name in decision.by_site.items() if name is not None}
        self.sites = [site for site in self.all_sites if site.path in chosen]
        self.described = [{"site": site.path, "processor": chosen[site.path]} for site in self.sites]
        self.instances = ByKernel({site.path: chosen[site.path] for site in self.sites})
        nothing = "no gain" if decision.by_site else "left" if self._is_overridden else "untried"
        self.state = "chosen" if chosen else nothing
        self._set_forwards()

    def tell(self) -> None:
        decision = self.decision
        if decision is None:
            return
        others = [(one.name, one.reason) for one in self.candidates() if one.reason is not None]
        self.told(
            {
                "sites": self.described,
                "gain": self.gain,
                "left": self.left,
                "auto": self.said,
                "choices": table(decision, others),
            }
        )

    @property
    def said(self) -> dict[str, Any]:
        """The record's ``auto``."""
        found = self.decision or Decision()
        return {
            "state": self.state,
            "quality": self.quality,
            "processors": found.kernels,
            "attention_speedup": None if found.speedup is None else round(found.speedup, 3),
            "error": found.error if self.state == "chosen" else None,
            "source": found.source if self.decision else None,
            "seconds": round(found.spent_ms / 1e3, 3),
        }

    def _first_after(self, ms: float) -> float:
        return max(ms - (self.saved_ms or 0.0), 0.0)
