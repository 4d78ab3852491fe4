"""The forward check: rules that return findings, and the walk over a model."""

from . import completeness, hazards, recompiling, signature
from .finding import Finding, Report, Severity
from .processor import check_processor
from .rule import Hit, Rule, Subject, rule, rules
from .walk import check_model

__all__ = [
    "Finding",
    "Hit",
    "Report",
    "Rule",
    "Severity",
    "Subject",
    "check_model",
    "check_processor",
    "completeness",
    "hazards",
    "recompiling",
    "rule",
    "rules",
    "signature",
]
