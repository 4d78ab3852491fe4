"""The forward check: rules that return findings, and the walk over a model."""

from . import completeness, options, signature
from .finding import Finding, Report, Severity
from .graph import hazards, recompiling
from .probing import mask_rules, probe_rules
from .processor import check_processor
from .rule import Hit, Rule, Subject, rule, rules
from .walk import check_model
from .weights import check_weights

__all__ = [
    "Finding",
    "Hit",
    "Report",
    "Rule",
    "Severity",
    "Subject",
    "check_model",
    "check_processor",
    "check_weights",
    "completeness",
    "hazards",
    "mask_rules",
    "options",
    "probe_rules",
    "recompiling",
    "rule",
    "rules",
    "signature",
]
