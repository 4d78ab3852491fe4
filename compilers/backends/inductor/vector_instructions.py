"""Which vector instructions Inductor uses on a CPU, found out with as few trials as it takes.

Inductor tries everything that the processor lists and then uses the first that works. A trial builds a library and
loads it in a process of its own, which imports torch: seconds each, again in every process (torch 2.11,
``torch._inductor.cpu_vec_isa``). On an Intel Xeon with AMX, with the libraries built before, all of them took 36 s and
the first alone 15.
"""

from __future__ import annotations

import importlib
import os
import platform
from typing import Any

from ...compile_cache import WARM


def find_vector_instructions() -> None:
    """Has Inductor try one kind after the other, its best first, until one works. It keeps what it found for the life
    of the process: who sets ``cpp.simdlen`` to the width of another kind only after that gets none.

    Inductor loads a library that it finds in its folder instead of building it, so that is our private one meanwhile.

    Raises:
        NoWorkspace: when there is no private folder.
    """
    from torch._inductor import config

    isa: Any = importlib.import_module("torch._inductor.cpu_vec_isa")
    wants_another = os.environ.get("ATEN_CPU_CAPABILITY") or config.cpp.simdlen is not None
    with WARM.in_private("vector instructions"):
        if platform.machine() in ("x86_64", "AMD64") and not wants_another:
            _keep_the_first(isa)
        isa.pick_vec_isa()


def _keep_the_first(isa: Any) -> None:
    """Tries kinds without Inductor's list of them, which others may be reading. It is short only while Inductor copies
    a kind that is known to work."""
    kinds, checker = getattr(isa, "supported_vec_isa_list", None), getattr(isa, "x86_isa_checker", None)
    info = getattr(isa.valid_vec_isa_list, "cache_info", None)
    if not (kinds and checker and info) or info().currsize:
        return
    listed = checker()
    possible = (kind for kind in kinds if all(flag in listed for flag in str(kind).split()))
    first = next(filter(_works, possible), None)
    if first is None:
        return
    isa.supported_vec_isa_list = [first]
    try:
        isa.valid_vec_isa_list()
    finally:
        isa.supported_vec_isa_list = kinds


def _works(kind: Any) -> bool:
    """Builds a library for a kind and loads it, which takes seconds: Inductor has the trial in ``__bool__``."""
    return bool(kind)
