"""How much of a block's time goes into what compiling leaves as it is.

Inductor fuses what lies between convolutions, matrix products and attention, which stay calls of the same libraries. So
one uncompiled run shows what compiling could gain at most, before anything is compiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from ...patching.calls import Inputs
from ..blocks.parity import clone_inputs

#: Operators that stay calls of a library, as they are named where gradients are off.
OF_LIBRARIES = frozenset(
    f"aten::{name}"
    for name in (
        "addmm",
        "baddbmm",
        "bmm",
        "conv1d",
        "conv2d",
        "conv3d",
        "convolution",
        "linear",
        "matmul",
        "mm",
        "scaled_dot_product_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
)

#: The part of the other time that fusing saves at most: what is fused is still read and written once. Of a residual
#: block of SD 1.5 (2 cores, float32) 2 to 9 % are no calls of libraries, and it ran 0.92 to 1.01 times as fast.
FUSED = 0.5

#: Runs that are looked at.
LOOKS = 3


class _LibraryClock(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(getattr(func, "_schema", None), "name", None) not in OF_LIBRARIES:
            return func(*args, **(kwargs or {}))
        start = time.perf_counter()
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.seconds += time.perf_counter() - start


def most_saved(run: Callable[[Inputs], Any], inputs: Inputs) -> float:
    """The part of a block's time that compiling could save at most: 0.02 where libraries take 96 % of it. Of a few runs
    the highest, each on its own clones of the inputs: a busy machine may hold up a call of a library as well."""
    found = []
    for _ in range(LOOKS):
        own, clock = clone_inputs(inputs), _LibraryClock()
        start = time.perf_counter()
        with clock:
            run(own)
        whole = time.perf_counter() - start
        found.append(max(0.0, 1 - clock.seconds / whole) if whole else 1.0)
    return FUSED * max(found)
