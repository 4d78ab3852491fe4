"""What a rule is, and the list of all rules.

A rule is one small class that looks at a subject and carries its own wording. Decorated with ``@rule`` it takes part in
every check; nothing else has to be edited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import nn

from ..patching.user_errors import class_name
from ..processors.elsewhere import CallKind
from .finding import Finding, Severity
from .source import class_location

Layer = Literal["completeness", "signature", "weights", "probe", "hazards", "options"]


@dataclass(frozen=True)
class Hit:
    """One breach of a rule. ``values`` fill the {placeholders} of the rule's texts; ``where`` is the offending line as
    "file:line", None for the class's; ``severity`` is that of this breach, None for the rule's. ``uncompiled``: with it
    the module can be used, and no graph can hold it; ``served`` are calls that have to go to PyTorch's attention."""

    values: Mapping[str, object] = field(default_factory=dict)
    where: str | None = None
    severity: Severity | None = None
    uncompiled: bool = False
    served: tuple[CallKind, ...] = ()


@dataclass(frozen=True)
class Subject:
    """What rules look at: a module at its path in the model. Each layer has its own subclass."""

    path: str
    module: nn.Module


class Rule:
    """Base of all rules. ``what`` continues "the module …" and has no full stop; ``why`` and ``fix`` are sentences. All
    three may have {placeholders}, which a hit fills."""

    layer: ClassVar[Layer]
    subject: ClassVar[type[Subject]] = Subject
    severity: ClassVar[Severity] = "error"
    what: ClassVar[str]
    why: ClassVar[str]
    fix: ClassVar[str]

    @property
    def name(self) -> str:
        """``NoForward`` is "no-forward"."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(self).__name__).lower()

    def hits(self, subject: Any) -> Iterator[Hit]:
        """Every breach; none means that the subject is fine."""
        raise NotImplementedError

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """Every breach as a finding."""
        for hit in self.hits(subject):
            yield Finding(
                severity=hit.severity or self.severity,
                path=subject.path,
                cls=class_name(type(subject.module)),
                where=hit.where or class_location(type(subject.module)),
                what=self.what.format_map(hit.values),
                why=self.why.format_map(hit.values),
                fix=self.fix.format_map(hit.values),
                rule=self.name,
                uncompiled=hit.uncompiled,
                served=hit.served,
            )


_RULES: dict[str, Rule] = {}


def rule(cls: type[Rule]) -> type[Rule]:
    """Class decorator: adds a rule. Two rules of one name raise ValueError."""
    added = cls()
    if added.name in _RULES:
        raise ValueError(f"a rule named {added.name!r} is there already")
    _RULES[added.name] = added
    return cls


def rules(layer: Layer | None = None) -> list[Rule]:
    """All rules, or those of a layer, in the order in which they were added."""
    return [r for r in _RULES.values() if layer is None or r.layer == layer]


def apply(layer: Layer, subject: Subject) -> list[Finding]:
    """What the rules of a layer find that are for this subject."""
    return [f for r in rules(layer) if isinstance(subject, r.subject) for f in r.findings(subject)]
