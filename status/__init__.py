"""The status record: what it holds, how it is measured, and how it reaches people."""

from .hub import HUB, Hub
from .record import STATES, Record

__all__ = ["HUB", "STATES", "Hub", "Record"]
