"""Values that a node does not know: from a newer version, or from a machine that has more."""

from __future__ import annotations

from collections.abc import Sequence

from ..checks import Finding


def known(node: str, name: str, value: str, options: Sequence[str], findings: list[Finding]) -> str:
    """The value, or the first option and a finding when the value is not among the options."""
    if value in options:
        return value
    findings.append(unknown_value(node, name, value, options, options[0]))
    return options[0]


def unknown_value(node: str, name: str, value: str, options: Sequence[str], used: str) -> Finding:
    """The finding that says what is used instead."""
    return Finding(
        severity="warning",
        path=name,
        cls=node,
        where="input",
        what=f"{name} {value!r} is not known here; {used!r} is used instead",
        why="The workflow comes from a newer version, or from a machine that has more.",
        fix=f"Choose one of {', '.join(options)}.",
    )
