"""Checks every module of a model that is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from .completeness import Completeness, broken_rule
from .finding import Finding, Report, worst_first
from .source import called_children, class_location

#: Modules that hold others and are never called themselves.
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def check_model(
    diffusion_model: nn.Module,
    sites: int,
    replaced: Mapping[str, Any] | None = None,
    attached: Mapping[str, nn.Module] | None = None,
) -> Report:
    """The forward check of a diffusion model.

    Args:
        sites: how many attention sites it has, for the report.
        replaced: what other nodes put in the place of parts of it, by path (a ModelPatcher's object patches).
        attached: processors by the path of the site that they are attached to; they are always called.
    """
    modules = dict(diffusion_model.named_modules())
    for path, replacement in (replaced or {}).items():
        if isinstance(replacement, nn.Module):
            modules.update({_join(path, below): m for below, m in replacement.named_modules()})
    findings = [_finding(rule, path, modules[path]) for path, rule in _broken(modules)]
    for path, processor in (attached or {}).items():
        for below, module in processor.named_modules():
            rule = broken_rule(module)
            if rule is not None and not isinstance(module, CONTAINERS):
                findings.append(_finding(rule, _join(f"{path}.processor", below), module))
    return Report(modules=len(modules), sites=sites, findings=worst_first(findings))


def _join(path: str, below: str) -> str:
    return f"{path}.{below}" if below else path


def _broken(modules: dict[str, nn.Module]) -> Iterator[tuple[str, Completeness]]:
    """Modules that break a rule and are called. A class without forward that only holds others (Flux's SelfAttention)
    is called by nobody: its parent reaches into it."""
    for path, module in modules.items():
        if not path or isinstance(module, CONTAINERS):
            continue
        rule = broken_rule(module)
        if rule is not None and _is_called(path, modules):
            yield path, rule


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


def _finding(rule: Completeness, path: str, module: nn.Module) -> Finding:
    return Finding(
        severity="error",
        path=path,
        cls=type(module).__name__,
        where=class_location(type(module)),
        what=rule.what,
        why=rule.why,
        fix=rule.fix,
    )
