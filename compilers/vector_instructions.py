"""Which vector instructions Inductor uses on a CPU, found out with as few trials as it takes.

Inductor tries everything that the processor lists and then uses the first that works. A trial builds a library and
loads it in a process of its own, which imports torch: seconds each, again in every process (torch 2.11,
``torch._inductor.cpu_vec_isa``). On an Intel Xeon with AMX, with the libraries built before, all of them took 36 s and
the first alone 15.
"""

from __future__ import annotations

import importlib
import os
from typing import Any


def find_vector_instructions() -> None:
    """Has Inductor try one kind after the other, its best first, until one works. It keeps what it found for the life
    of the process."""
    from torch._inductor import config

    isa: Any = importlib.import_module("torch._inductor.cpu_vec_isa")
    kinds = getattr(isa, "supported_vec_isa_list", None)
    forget = getattr(isa.valid_vec_isa_list, "cache_clear", None)
    wants_another = os.environ.get("ATEN_CPU_CAPABILITY") or config.cpp.simdlen is not None
    if kinds and forget and not wants_another and not isa.valid_vec_isa_list.cache_info().currsize:
        try:
            for kind in kinds:
                forget()
                isa.supported_vec_isa_list = [kind]
                if isa.pick_vec_isa():
                    return
        finally:
            isa.supported_vec_isa_list = kinds
    isa.pick_vec_isa()
