"""Compiled code that survives a restart: a signed store on disk, and Inductor's folder while a graph compiles."""

from .store import Deleted
from .warm import WARM, Place, WarmStart
from .workspace import NoWorkspace

__all__ = ["WARM", "Deleted", "NoWorkspace", "Place", "WarmStart"]
