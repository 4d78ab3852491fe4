"""Compiled code that survives a restart: a signed store on disk, and Inductor's folder while a graph compiles."""

from .warm import WARM, Place, WarmStart

__all__ = ["WARM", "Place", "WarmStart"]
