"""Checks every module of a model that is called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..patching.user_code import Cancel
from ..processors import Site
from .attached import check_attached
from .finding import Finding, Report, worst_first
from .probing.patience import cannot_be_looked_at
from .reaching.reach import FindReach, Reach
from .rule import Subject, apply
from .signature import Replacement
from .source import called_children

#: Modules that hold others and are never called themselves.
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def check_model(
    diffusion_model: nn.Module,
    sites: int,
    replaced: Mapping[str, Any] | None = None,
    attached: Iterable[tuple[Site, nn.Module]] = (),
    find_reach: FindReach | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    cancel: Cancel | None = None,
) -> Report:
    """The forward check of a diffusion model.

    Args:
        sites: how many attention sites it has, for the report.
        replaced: what other nodes put in the place of parts of it, by path (a ModelPatcher's object patches).
        attached: sites and the processors that are attached to them; they are always called. Of sites that are alike,
            one is looked at.
        find_reach: runs the model to find out what it calls; asked only when a module is broken. None reads it in the
            source.
        dtype, device: what the model computes in; None is the CPU.
        cancel: how the user's Cancel reaches the check.
    """
    cancel = cancel or Cancel()
    modules = dict(diffusion_model.named_modules())
    swapped: list[Finding] = []
    for path, replacement in (replaced or {}).items():
        if isinstance(replacement, nn.Module):
            if path in modules:
                swapped += apply("signature", Replacement(path, replacement, type(modules[path]).forward))
            modules.update({_join(path, below): m for below, m in replacement.named_modules()})
    findings = [*_broken(modules, find_reach, cancel), *swapped]
    findings += check_attached(attached, dtype, device or torch.device("cpu"), cancel, find_reach)
    return Report(modules=len(modules), sites=sites, findings=worst_first(findings))


def _join(path: str, below: str) -> str:
    return f"{path}.{below}" if below else path


def _broken(modules: dict[str, nn.Module], find_reach: FindReach | None, cancel: Cancel) -> Iterator[Finding]:
    """What is wrong with modules that are called. A class without forward that only holds others (Flux's SelfAttention)
    is called by nobody: its parent reaches into it."""
    broken: dict[str, list[Finding]] = {}
    for path, module in modules.items():
        if path and not isinstance(module, CONTAINERS):
            try:
                found = apply("completeness", Subject(path, module))
            except cancel.stops:
                raise
            except BaseException as error:  # another pack's class may raise when it is looked at
                found = [cannot_be_looked_at(path, module, error)]
            if found:
                broken[path] = found
    if not broken:
        return
    reach = find_reach(broken) if find_reach else None
    for path, found in broken.items():
        if reach is not None and path in reach.called:
            yield from found
        elif _is_called(path, modules):
            yield from (_as_read(finding, reach) for finding in found)


def _as_read(finding: Finding, reach: Reach | None) -> Finding:
    """A finding on a module that only its parent's code says is called."""
    if reach is None or finding.severity == "note":
        return finding
    if reach.complete and finding.severity == "error":
        why = f"{finding.why} Its parent's code calls it, but a run with example inputs did not: some other input may."
        return replace(finding, severity="warning", why=why)
    reason = reach.reason or "a branch depends on values"
    why = f"{finding.why} Its parent's code calls it; running the model could not confirm that ({reason})."
    return replace(finding, why=why)


def _is_called(path: str, modules: dict[str, nn.Module]) -> bool:
    """Whether the parent's code calls this module. Elements of a Sequential are; elements of a list are when the list's
    owner calls them."""
    parent_path, _, name = path.rpartition(".")
    parent = modules.get(parent_path)
    if isinstance(parent, nn.Sequential):
        return True
    while isinstance(parent, CONTAINERS):
        parent_path, _, name = parent_path.rpartition(".")
        parent = modules.get(parent_path)
    return parent is None or name in called_children(type(parent))
