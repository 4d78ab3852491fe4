"""One result of a check, and all results together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ..processors.elsewhere import CallKind

Severity = Literal["error", "warning", "note"]
_ORDER = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """What is wrong with one module, where, why it matters, and what to do.

    ``path`` is the module's path in the diffusion model, ``cls`` its class, ``where`` a "file:line": the offending
    line where it is known, else the class's. ``rule`` is the rule's name. ``also`` are the paths of other modules of
    which the same is true. An error is what keeps a module from being used; with ``uncompiled`` it is used, and what it
    is in runs uncompiled, or, where it is called ``as_operator``, compiled around it; calls that are ``served`` go to
    PyTorch's attention.
    """

    severity: Severity
    path: str
    cls: str
    where: str
    what: str
    why: str
    fix: str
    rule: str = ""
    also: tuple[str, ...] = ()
    uncompiled: bool = False
    as_operator: bool = False
    served: tuple[CallKind, ...] = ()

    @property
    def brief(self) -> str:
        """Which module, where, and what: "blocks.0.ff (pack/blocks.py:12) has no forward."."""
        return f"{self.path} ({self.where}) {self.what}."

    def as_dict(self) -> dict[str, str]:
        """The form of the record's ``check.findings``."""
        return {
            "severity": self.severity,
            "path": self.path,
            "class": self.cls,
            "where": self.where,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
            "rule": self.rule,
        }

    def __str__(self) -> str:
        return f"{self.severity}: {self.path} ({self.cls}, {self.where}): {self.what}. {self.why} {self.fix}"


@dataclass(frozen=True)
class Report:
    """All findings of a check, worst first."""

    modules: int
    sites: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        return sum(f.severity == "error" for f in self.findings)

    @property
    def warnings(self) -> int:
        return sum(f.severity == "warning" for f in self.findings)

    @property
    def ok(self) -> bool:
        """True when nothing was found that keeps a module from being used."""
        return self.errors == 0

    def extended(self, findings: tuple[Finding, ...]) -> Report:
        """The same report with more findings."""
        return replace(self, findings=worst_first([*self.findings, *findings]))

    def under(self, path: str) -> list[Finding]:
        """What keeps a module, and everything below it, from being compiled."""
        below = f"{path}."
        return [
            finding
            for finding in self.findings
            if (finding.severity == "error" or finding.uncompiled)
            and any(place == path or place.startswith(below) for place in (finding.path, *finding.also))
        ]

    def as_dict(self) -> dict[str, Any]:
        """The record's ``check`` field."""
        return {
            "modules": self.modules,
            "sites": self.sites,
            "errors": self.errors,
            "warnings": self.warnings,
            "findings": [f.as_dict() for f in self.findings],
        }


def worst_first(findings: list[Finding]) -> tuple[Finding, ...]:
    """Findings by severity, the order within one severity kept."""
    return tuple(sorted(findings, key=lambda f: _ORDER[f.severity]))
