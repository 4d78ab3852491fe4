"""Attention processors, their contract, the sites of a model, and attaching one to a ModelPatcher."""

from .authored.adapt import NotCallable, adapt, written
from .authored.call_plan import CONTRACTS, Form, Plan, plan_call
from .authored.forms import Way, way_of
from .built_in import flash, kitchen_int8, reference, sage, sage3, sdpa, sliced, xformers
from .contract import KernelProcessor, Level, Limits, ModuleProcessor, Processor, Unsupported, remedy
from .registry import DEFAULT_PROCESSOR, UnknownProcessor, get_processor, processor_names, register_processor
from .sites.find import Site, find_sites
from .sites.select import SITE_KINDS, BlocksTooLong, UnknownSites, select_sites

__all__ = [
    "CONTRACTS",
    "DEFAULT_PROCESSOR",
    "SITE_KINDS",
    "BlocksTooLong",
    "Form",
    "KernelProcessor",
    "Level",
    "Limits",
    "ModuleProcessor",
    "NotCallable",
    "Plan",
    "Processor",
    "Site",
    "UnknownProcessor",
    "UnknownSites",
    "Unsupported",
    "Way",
    "adapt",
    "find_sites",
    "flash",
    "get_processor",
    "kitchen_int8",
    "plan_call",
    "processor_names",
    "reference",
    "register_processor",
    "remedy",
    "sage",
    "sage3",
    "sdpa",
    "select_sites",
    "sliced",
    "way_of",
    "written",
    "xformers",
]
