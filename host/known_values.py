"""Inputs that a node does not know: values of a newer version, of a machine that has more, or that nobody could use.

ComfyUI passes on what a client sends, and what other nodes give of any type.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any

from ..checks import Finding, Report
from ..status import Record
from ..status.plain import cut

#: Letters of an input's value that people are shown, and options that are named.
MOST_SHOWN, MOST_OPTIONS = 60, 20

#: Letters of a value that can be the name of anything.
LONGEST_NAME = 1_000


class _Short(reprlib.Repr):
    """Values of other classes are named by their class: their own ``__repr__`` may do anything."""

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, str):
            return self.repr_str(str.__str__(x), level)
        return repr(x) if type(x) in (float, bool, type(None)) else f"a {type(x).__name__}"


_SHORT = _Short()
_SHORT.maxstring = MOST_SHOWN


class WrongInput(ValueError):
    """An input without which a node can do nothing. ``finding`` says which, and what to do."""

    def __init__(self, title: str, node: str, finding: Finding):
        super().__init__(f"{title} (node {node}): {finding.what}. {finding.fix}")
        self.finding = finding


def plainly(value: Any) -> Any:
    """A text or number without what another node's class makes of it; anything else as it is."""
    kind = type(value)
    if issubclass(kind, str):
        return str.__str__(value)
    if kind is not bool and issubclass(kind, int):
        return int.__index__(value)
    return float.__float__(value) if issubclass(kind, float) else value


def has(value: Any, *names: str) -> bool:
    """Whether an object has these attributes. One that raises when it is asked has them not, whatever it raises."""
    try:
        return all(hasattr(value, name) for name in names)
    except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit):
        return False


def shown(value: Any) -> str:
    """A value as people are told, on one line and never long: ``'sdpa'``, ``{'a': 1}``, "a Tensor"."""
    value = plainly(value)
    if issubclass(type(value), (str, int, float, list, tuple, dict, type(None))):
        try:
            return cut(_SHORT.repr(value), 2 * MOST_SHOWN)
        except ValueError:  # a whole number with more digits than Python writes
            return "a number of many digits"
    return f"a {type(value).__name__}"


def known(node: str, name: str, value: Any, options: Sequence[str], findings: list[Finding]) -> str:
    """The value, or the first option and a finding when the value is not among the options."""
    value = plainly(value)
    if type(value) is str and value in options:
        return value
    findings.append(unknown_value(node, name, value, options, options[0]))
    return options[0]


def name_given(node: str, name: str, value: Any, used: str, findings: list[Finding]) -> str:
    """The value where it can be the name of something, else ``used`` and a finding."""
    value = plainly(value)
    if type(value) is str and len(value) <= LONGEST_NAME:
        return value
    findings.append(_no_use(node, name, value, used, "Choose one from the list."))
    return used


def text_given(node: str, name: str, value: Any, used: str, findings: list[Finding]) -> str:
    """The value where it is a text, else ``used`` and a finding."""
    value = plainly(value)
    if type(value) is str:
        return value
    findings.append(_no_use(node, name, value, used, "Connect a text, or type one."))
    return used


def switch_given(node: str, name: str, value: Any, used: bool, findings: list[Finding]) -> bool:
    """The value where it is true or false, or 1 or 0, else ``used`` and a finding."""
    value = plainly(value)
    if type(value) in (bool, int) and value in (0, 1):
        return bool(value)
    findings.append(_no_use(node, name, value, used, "Switch it on or off."))
    return used


def number_given(
    node: str, name: str, value: Any, used: float, least: float, most: float, findings: list[Finding]
) -> float:
    """The value where it is a number from ``least`` to ``most``; a finding, and ``used`` for what is no number, the
    nearer end for one that is beyond."""
    fix = f"Give it a number from {least:g} to {most:g}."
    value = plainly(value)
    if type(value) not in (int, float) or (type(value) is float and math.isnan(value)):
        findings.append(_no_use(node, name, value, used, fix))
        return used
    if least <= value <= most:
        return value
    end = least if value < least else most
    findings.append(_no_use(node, name, value, end, fix))
    return end


def model_given(title: str, node: str, value: Any, record: Record) -> None:
    """Looks whether ``model`` is one.

    Raises:
        WrongInput: when it is not; the record says so too.
    """
    if not has(value, "get_model_object", "clone"):
        refuse(title, node, "model", value, "a MODEL", "Connect a node that loads one.", record)


def refuse(title: str, node: str, name: str, value: Any, wanted: str, fix: str, record: Record) -> None:
    """Ends the run, because an input is not what it has to be.

    Raises:
        WrongInput: always; the record has the same finding.
    """
    what = f"{name} is {shown(value)}, not {wanted}"
    why = "Without it there is nothing to work on."
    finding = Finding("error", name, node, "input", what, why, fix, "wrong-input")
    record.update(state="failed", check=Report(0, 0, (finding,)).as_dict())
    raise WrongInput(title, str(record["node"]), finding)


def unknown_value(node: str, name: str, value: Any, options: Sequence[str], used: str) -> Finding:
    """The finding that says what is used instead."""
    more = f" or {len(options) - MOST_OPTIONS} more" if len(options) > MOST_OPTIONS else ""
    return Finding(
        severity="warning",
        path=name,
        cls=node,
        where="input",
        what=f"{name} {shown(value)} is not known here; {used!r} is used instead",
        why="The workflow comes from a newer version, or from a machine that has more.",
        fix=f"Choose one of {', '.join(options[:MOST_OPTIONS])}{more}.",
    )


def _no_use(node: str, name: str, value: Any, used: Any, fix: str) -> Finding:
    return Finding(
        severity="warning",
        path=name,
        cls=node,
        where="input",
        what=f"{name} {shown(value)} cannot be used here; {used!r} is used instead",
        why="A script, or a node that is connected to it, gave a value of another kind.",
        fix=fix,
    )
