"""The forward check: rules that return findings, and the walk over a model."""

from .finding import Finding, Report, Severity
from .walk import check_model

__all__ = ["Finding", "Report", "Severity", "check_model"]
