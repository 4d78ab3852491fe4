"""Checks one processor at one site, layer by layer: a layer is looked at when those before it found no error."""

from __future__ import annotations

import torch
from torch import nn

from ..processors import NotCallable, Processor, Site, adapt, level_of, written
from ..processors.repair import repaired
from .finding import Finding, worst_first
from .mounted import mount
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
) -> tuple[Finding, ...]:
    """All findings on a processor at a site, worst first.

    Args:
        processor: as a person wrote it, or adapted.
        dtype, device: what the model computes in; None is the CPU.
        thorough: every combination of inputs in the probe; False is a pairwise cover, for many sites.
    """
    module = repaired(written(processor))
    path = f"{site.path}.processor"
    findings = [
        finding
        for below, part in module.named_modules()
        for finding in apply("completeness", Subject(f"{path}.{below}" if below else path, part))
        if not isinstance(part, nn.ModuleList | nn.ModuleDict)
    ]
    if _errors(findings):
        return worst_first(findings)
    findings += apply("signature", Called(path, module, level_of(type(module))))
    if _errors(findings):
        return worst_first(findings)
    mounted = mount(_adapted(processor), site, dtype, device or torch.device("cpu"), thorough)
    for layer in MOUNTED_LAYERS:
        findings += apply(layer, mounted)
        if _errors(findings):
            break
    return worst_first(findings)


def _adapted(processor: nn.Module) -> Processor:
    try:
        return adapt(processor)
    except NotCallable as error:
        raise AssertionError(f"the signature rules let {error} pass") from error


def _errors(findings: list[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)
