"""Checks the processors of a model's sites: equal sites once, and nothing twice while the processors are the same."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import nn

from ..memo import Notes, Same
from ..patching.ending.stopping import Overdue
from ..patching.inside import tensors_in
from ..patching.user_code import Attendance, Cancel
from ..processors import Processor, Site, written
from ..processors.authored.recipe import recipe_of
from ..processors.authored.state import Kept, outside
from ..processors.elsewhere import joined
from .finding import Finding
from .probing.bench import geometry
from .probing.cases import Brought
from .probing.patience import FINAL, cannot_be_looked_at
from .processor import check_processor
from .reaching.reach import FindReach, Reach

Ask = Callable[[], Brought | None]
_Known = dict[Hashable, dict[Hashable, tuple[Finding, ...]]]

#: Stands for what a model's blocks hand to a site where nothing depends on it.
_UNASKED = "unasked"

#: What was found out, by processor, and by what the blocks hand to it. Findings and keys hold neither the processor nor
#: a model.
_known: Notes[_Known] = Notes(dict)
_lock = threading.Lock()

T = TypeVar("T")

#: Seconds that a class has when it is looked at and not called.
LOOK = 10.0


def check_attached(
    attached: Iterable[tuple[Site, nn.Module]],
    dtype: torch.dtype,
    device: torch.device,
    cancel: Cancel | None = None,
    find_reach: FindReach | None = None,
) -> list[Finding]:
    """The findings on processors at their sites. Calls in which one was seen to fail go to PyTorch's attention from
    now on, where no ordinary run of the model makes them.

    A finding that comes at several sites is given once, with the first one's path; ``Finding.also`` has the others'.
    Each processor is given 60 s at each kind of site; one that needed more is not tried at others.
    """
    cancel = cancel or Cancel()
    merged: dict[Hashable, Finding] = {}
    attached = list(attached)
    looks = _looks((processor for _, processor in attached), cancel)
    captured: dict[Hashable, dict[Any, Any]] = {}
    reach = functools.cache(lambda: find_reach(())) if find_reach is not None else None
    for site, processor in attached:
        ask = partial(_brought, reach, site.path)
        known = captured.setdefault(id(_whose(processor)), {})
        found = tuple(_findings(site, processor, looks[id(processor)], dtype, device, cancel, ask, known))
        _serve(processor, found)
        found = _set_as_operator(processor, found)
        for finding in found:
            fault = (finding.rule, finding.cls, finding.where, finding.severity)
            first = merged.setdefault(fault, finding)
            if first is not finding:
                merged[fault] = replace(first, also=(*first.also, finding.path))
    return [_counted(finding) for finding in merged.values()]


def _brought(reach: Callable[[], Reach] | None, path: str) -> Brought | None:
    return reach().brought(path) if reach is not None else None


def _serve(processor: nn.Module, found: Iterable[Finding]) -> None:
    kinds = {kind for finding in found for kind in finding.served}
    if kinds and issubclass(type(processor), Processor):
        ours = cast(Processor, processor)
        ours.left = joined([*ours.left, *kinds])
        recipe = recipe_of(processor)
        if recipe is not None:  # for its other instances
            recipe.left = joined([*recipe.left, *kinds])


#: Rules on processors of which each call counts.
_COUNTS = {
    "step-state", "state-in-forward", "random-outside-torch", "writes-inputs", "not-repeatable", "training-differs",
}  # fmt: skip


def _set_as_operator(processor: nn.Module, found: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Notes that no graph can hold a processor, where an operator can. The findings say so."""
    recipe, hazards = recipe_of(processor), [finding for finding in found if finding.uncompiled]
    counts = (recipe is not None and recipe.keeps) or any(finding.rule in _COUNTS | FINAL for finding in found)
    if not hazards or counts or not issubclass(type(processor), Processor):
        return found
    ours = cast(Processor, processor)
    if getattr(ours, "takes_options", False) or any(finding.severity == "error" for finding in found):
        return found
    ours.as_operator = True
    if recipe is not None:  # for its other instances
        recipe.as_operator = True
    return tuple(replace(finding, as_operator=finding.uncompiled) for finding in found)


def _one_a_site(processor: nn.Module) -> bool:
    """Whether what is found at one site holds for the instances at others like it."""
    recipe = recipe_of(processor)
    return recipe is not None and recipe.per_site


def _whose(processor: nn.Module) -> Any:
    """What is looked at in one go: a processor, or what makes one for each site."""
    return recipe_of(processor) if _one_a_site(processor) else processor


def _looks(processors: Iterable[nn.Module], cancel: Cancel) -> dict[int, Hashable | BaseException]:
    """The state of each processor, by its id, or what its class raised. A class is looked at in one go: a thread for
    each of a hundred sites takes half a second."""
    together: dict[int, dict[int, nn.Module]] = {}
    for processor in processors:
        together.setdefault(id(_whose(processor)), {})[id(processor)] = processor
    found: dict[int, Hashable | BaseException] = {}
    for group in together.values():
        try:
            states = Attendance(cancel, LOOK).apart(partial(_states, list(group.values())), "a look at a processor")
        except cancel.error:
            raise
        except BaseException as error:  # a metaclass may do anything where its class is asked
            found |= dict.fromkeys(group, error)
        else:
            found |= zip(group, states, strict=True)
    return found


def _states(processors: list[nn.Module]) -> list[Hashable]:
    return [_state(written(processor), by_form=_one_a_site(processor)) for processor in processors]


def _findings(
    site: Site,
    processor: nn.Module,
    state: Hashable | BaseException,
    dtype: torch.dtype,
    device: torch.device,
    cancel: Cancel,
    ask: Ask,
    captured: dict[Any, Any],
) -> Iterable[Finding]:
    module, recipe = written(processor), recipe_of(processor)
    if isinstance(state, BaseException):
        return [cannot_be_looked_at(f"{site.path}.processor", module, state)]
    try:
        key = (_kind_of(site), dtype, device, state)
        with _lock:
            known = _known.on(recipe if _one_a_site(processor) else module)
            found = known.get(state) or known.get(key)
    except cancel.error:
        raise
    except BaseException as error:  # a metaclass may do anything where its class is asked
        return [cannot_be_looked_at(f"{site.path}.processor", module, error)]
    if found is not None and _UNASKED not in found:  # it depends on what the model's blocks hand to the site
        found = {brought: findings for brought, findings in found.items() if brought == ask()}
    if not found:
        place, attendance = replace(site, path=_PLACE), Attendance(cancel)
        asked: list[Brought | None] = []

        def answered() -> Brought | None:
            asked.append(ask())
            return asked[-1]

        before = _attended(cancel, lambda: Kept(outside(type(module))))  # a sampling may go on: instances share this
        try:
            findings = check_processor(
                processor, place, dtype, device, False, attendance, ask=answered, captured=captured
            )
        finally:
            if before is not None:
                _attended(cancel, before.put_back)
        found = {asked[0] if asked else _UNASKED: findings}
        known[key] = {**known.get(key, {}), **found}
        if any(finding.rule in FINAL for finding in findings):
            known[state] = {_UNASKED: findings}
    (findings,) = found.values()
    return [replace(finding, path=site.path + finding.path.removeprefix(_PLACE)) for finding in findings]


def _attended(cancel: Cancel, work: Callable[[], T]) -> T | None:
    """What ``work`` returns, None where a class raises or does not return when it is looked at: the check says so."""
    try:
        return Attendance(cancel, LOOK).apart(work, "a look at a processor")
    except Overdue:
        return None
    except cancel.error:
        raise
    except BaseException:
        return None


#: Stands for the path of a site in what is known of all sites like it.
_PLACE = "site"


def _kind_of(site: Site) -> Hashable:
    """Equal for sites at which a processor is called alike."""
    shapes = [(name, tuple(p.shape)) for name, p in site.module.named_parameters()] if site.has_projections else None
    return type(site.module), site.kind, site.has_projections, geometry(site), shapes and tuple(shapes)


def _state(module: nn.Module, by_form: bool) -> Hashable:
    """Changes when a processor's tensors or mode do; by their form alone where it is one of many."""
    tensors, forward = list(tensors_in(module)), type(module).forward
    if by_form:
        return Same(forward), module.training, tuple((n, tuple(t.shape), t.dtype, t.device) for n, t in tensors)
    marks = tuple((name, id(t), _version(t), t.dtype, t.device, t.requires_grad) for name, t in tensors)
    return Same(forward), module.training, marks


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # inference tensors do not count


def _counted(finding: Finding) -> Finding:
    if not finding.also:
        return finding
    sites = "1 more site" if len(finding.also) == 1 else f"{len(finding.also)} more sites"
    return replace(finding, why=f"{finding.why} The same at {sites}.")
