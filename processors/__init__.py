"""Attention processors, their contract, the sites of a model, and attaching one to a ModelPatcher."""

from . import reference, sdpa
from .contract import KernelProcessor, Limits, ModuleProcessor, Processor
from .registry import DEFAULT_PROCESSOR, UnknownProcessor, get_processor, processor_names, register_processor
from .select import SITE_KINDS, UnknownSites, select_sites
from .sites import Site, find_sites

__all__ = [
    "DEFAULT_PROCESSOR",
    "SITE_KINDS",
    "KernelProcessor",
    "Limits",
    "ModuleProcessor",
    "Processor",
    "Site",
    "UnknownProcessor",
    "UnknownSites",
    "find_sites",
    "get_processor",
    "processor_names",
    "reference",
    "register_processor",
    "sdpa",
    "select_sites",
]
