"""Checks one processor at one site, layer by layer: a layer is looked at when those before it found no error."""

from __future__ import annotations

import torch
from torch import nn

from ..patching.explicit_forward import repaired
from ..patching.user_code import Attendance
from ..patching.user_errors import Overdue
from ..processors import NotCallable, Processor, Site, Way, adapt, way_of, written
from ..processors.authored.adapt import way_in
from ..processors.authored.recipe import foreign_to
from .finding import Finding, worst_first
from .mounted import mount
from .probing.keeping import keeping
from .probing.pace import SLOW, pace
from .probing.patience import cannot_be_looked_at, not_returned, slow, unfinished
from .probing.standin import stand_in
from .rule import Layer, Subject, apply
from .signature import Called

#: Layers that look at a processor where it is mounted, cheap ones first.
MOUNTED_LAYERS: tuple[Layer, ...] = ("weights", "probe", "hazards")


def check_processor(
    processor: nn.Module,
    site: Site,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    thorough: bool = True,
    attendance: Attendance | None = None,
) -> tuple[Finding, ...]:
    """All findings on a processor at a site, worst first. Whatever its code raises or does, there is an answer in time.

    Args:
        processor: as a person wrote it, or adapted.
        dtype, device: what the model computes in; None is the CPU.
        thorough: every combination of inputs in the probe; False is a pairwise cover, for many sites.
        attendance: looks after the processor's code; None gives it 60 s.
    """
    attendance = attendance or Attendance()
    findings: list[Finding] = []
    path = f"{site.path}.processor"
    try:
        attendance.watched(lambda: _look(processor, site, dtype, device, thorough, attendance, findings))
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
    device: torch.device | None,
    thorough: bool,
    attendance: Attendance,
    findings: list[Finding],
) -> None:
    """Adds to ``findings``, layer by layer."""
    module = repaired(written(processor))
    path = f"{site.path}.processor"
    findings += [
        finding
        for below, part in module.named_modules()
        for finding in apply("completeness", Subject(f"{path}.{below}" if below else path, part))
        if not isinstance(part, nn.ModuleList | nn.ModuleDict)
    ]
    if _errors(findings):
        return
    way = way_in(processor) or way_of(module, site, lambda work: attendance.apart(work, "a call"))
    findings += apply("signature", Called(path, module, way))
    if _errors(findings):
        return
    if foreign_to(processor, site):  # the model's own layers stay out of it
        processor = stand_in(
            processor, lambda tensor: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
        )
    mounted = mount(_adapted(processor, way), site, dtype, device or torch.device("cpu"), thorough, attendance)
    seconds = mounted.evidence(pace)
    if seconds > SLOW:
        findings.append(slow(path, module, seconds))
        return
    mounted.evidence(keeping)
    for layer in MOUNTED_LAYERS:
        findings += apply(layer, mounted)
        if _errors(findings):
            break


def _adapted(processor: nn.Module, way: Way | None) -> Processor:
    try:
        return adapt(processor, way=way)
    except NotCallable as error:
        raise AssertionError(f"the signature rules let {error} pass") from error


def _errors(findings: list[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)
