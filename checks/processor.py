"""Checks one processor at one site, in all layers: what one finds hides nothing that another can find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..patching.ending.stopping import Overdue
from ..patching.explicit_forward import repaired
from ..patching.inside import modules_in
from ..patching.user_code import Attendance
from ..processors import NotCallable, Processor, Site, Way, adapt, way_of, written
from ..processors.authored.adapt import way_in
from ..processors.authored.recipe import foreign_to
from .finding import Finding, worst_first
from .mounted import Held, mount
from .probing.cases import Brought
from .probing.keeping import keeping
from .probing.patience import TOO_SLOW, cannot_be_looked_at, not_returned, pace, slow, unfinished
from .probing.standin import stand_in
from .rule import Layer, Subject, apply
from .signature import Called

_CPU = torch.device("cpu")

#: Layers that look at a processor where it is mounted, cheap ones first.
MOUNTED_LAYERS: tuple[Layer, ...] = ("weights", "probe", "hazards")


def check_processor(
    processor: nn.Module,
    site: Site,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    thorough: bool = True,
    attendance: Attendance | None = None,
    ask: Callable[[], Brought | None] = lambda: None,
    captured: dict[Any, Any] | None = None,
) -> tuple[Finding, ...]:
    """All findings on a processor at a site, worst first. Whatever its code raises or does, there is an answer in time.

    Args:
        processor: as a person wrote it, or adapted.
        dtype, device: what the model computes in; None is the CPU.
        thorough: every combination of inputs in the probe; False is a pairwise cover, for many sites.
        attendance: looks after the processor's code; None gives it 60 s.
        ask, captured: see ``Mounted``.
    """
    attendance = attendance or Attendance()
    findings: list[Finding] = []
    path = f"{site.path}.processor"
    about = (site, dtype, device or _CPU, thorough, attendance, ask, captured)
    try:
        attendance.watched(lambda: _look(processor, *about, findings))
    except Overdue as over:
        findings.append((unfinished if over.returned else not_returned)(path, written(processor), over))
    except attendance.stops:
        raise
    except BaseException as error:  # a metaclass or a __signature__ may raise wherever it is looked at
        findings.append(cannot_be_looked_at(path, processor, error))
    return worst_first(findings)


def _look(
    processor: nn.Module,
    site: Site,
    dtype: torch.dtype,
    device: torch.device,
    thorough: bool,
    attendance: Attendance,
    ask: Callable[[], Brought | None],
    captured: dict[Any, Any] | None,
    findings: list[Finding],
) -> None:
    """Adds to ``findings`` all that can be found: what one layer finds keeps no other from looking."""
    module = repaired(written(processor))
    path = f"{site.path}.processor"
    findings += [
        finding
        for below, part in modules_in(module)
        for finding in apply("completeness", Subject(f"{path}.{below}" if below else path, part))
        if not isinstance(part, nn.ModuleList | nn.ModuleDict)
    ]
    usable = not any(finding.severity == "error" and finding.path == path for finding in findings)
    way = None
    if usable:
        way = way_in(processor) or way_of(module, site, lambda work: attendance.apart(work, "a call"))
        findings += apply("signature", Called(path, module, way))
    if foreign_to(processor, site):  # the model's own layers stay out of it
        processor = stand_in(processor, lambda t: t.detach().to("cpu", dtype if t.is_floating_point() else t.dtype))
    adapted = _adapted(processor, way)
    if adapted is None:
        findings += apply("weights", Held(path, module))
        return
    mounted = mount(adapted, site, dtype, device, thorough, attendance, ask, captured)
    seconds = mounted.evidence(pace)
    if seconds > TOO_SLOW:
        findings += [slow(path, module, seconds), *apply("weights", Held(path, module))]
        return
    for layer in MOUNTED_LAYERS:
        findings += apply(layer, mounted)
    mounted.evidence(keeping)
    findings[:] = each_cause_once(findings)


def _adapted(processor: nn.Module, way: Way | None) -> Processor | None:
    """None where it cannot be called at all."""
    try:
        return adapt(processor, way=way) if way is not None else None
    except NotCallable:
        return None


_MISCALLED = ("too-few-arguments", "other-order", "replacement-requires-more")
_KEEPS = ("step-state", "state-in-forward", "random-outside-torch")
_RAISES = ("raises", "raises-on-numbers")
_FAILS = (*_RAISES, "no-tensor", "wrong-shape", "wrong-dtype", "wrong-device", "wrong-layout")


def each_cause_once(findings: list[Finding]) -> list[Finding]:
    """Without findings that only follow from another one."""
    by_rule = {finding.rule for finding in findings}
    failing = any(f.severity == "error" and f.rule in _FAILS for f in findings)
    follow: set[str] = set()
    if by_rule & set(_MISCALLED):
        follow |= set(_FAILS)
    if by_rule & {"no-forward", "forward-only-raises"}:
        follow |= set(_RAISES)
    if by_rule & set(_KEEPS):
        follow.add("not-repeatable")
    kept = [finding for finding in findings if finding.rule not in follow]
    if not failing:  # an argument that it has no place for, and does not need
        kept = [replace(f, severity="warning") if f.rule == "too-few-arguments" else f for f in kept]
    return kept
