"""Compiles and runs something tiny with a backend, and compares and times it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...measure.stopwatch import Stopwatch
from ...patching.user_code import Cancel
from ...proving.proof import SLOWER, Proof
from ..backends.errors_in_words import is_out_of_memory
from ..backends.protocol import Cancelled
from ..blocks.parity import compare
from ..blocks.shared_graph import SharedGraph

if TYPE_CHECKING:
    from ..backends.protocol import Backend

#: Runs each way; while the compiled ones are slower, so many more for up to a second: a busy machine makes them so.
_ROUNDS, _SECONDS = 7, 1.0


class _Tiny(nn.Module):
    """A linear layer and an attention: what every model has."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.utils.skip_init(nn.Linear, 64, 192)
        for parameter in self.parameters():
            parameter.requires_grad_(False).copy_(_numbers(*parameter.shape) / 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def _numbers(*shape: int) -> torch.Tensor:
    """Different numbers between -1 and 1, without the random numbers that another node may be drawing."""
    return torch.arange(math.prod(shape), dtype=torch.float32).sin().reshape(shape)


def try_out(backend: Backend, device: torch.device, cancel: Cancel | None = None) -> Proof:
    """Compiles and runs something tiny in this process; ``cancel`` ends it. ``seconds`` leave out what a process pays
    once for a compiler (imports, probes of the CPU): those are the ``startup_seconds``."""
    begun = time.perf_counter()
    try:
        backend.start_up(device)
        start = time.perf_counter()
        with torch.inference_mode():
            module = _Tiny().to(device)
            x = _numbers(2, 256, 64).to(device)
            compiled = backend.compile(
                module, SharedGraph(_Tiny.forward, "proof", cancel=cancel or Cancel()), "fast start"
            )
            parity = compare(compiled(x), module(x))
            seconds = round(time.perf_counter() - start, 1)
            speed = _speed(lambda: compiled(x), lambda: module(x), device) if parity.passed else None
    except Cancelled as cancelled:
        raise cancelled.error from None
    except Exception as error:  # whatever a compiler raises, the answer is "no, because"
        return Proof(False, backend.explain(error).reason, passing=is_out_of_memory(error))
    startup = round(start - begun, 1)
    if speed is None:
        remedy = "use inductor" if backend.native else "update PyTorch"
        reason = f"it computes wrong numbers here ({parity.relative:.1e} relative difference): {remedy}."
        return Proof(False, reason, seconds, startup_seconds=startup)
    slowly = f", {1 / max(speed, 0.01):.0f} times slower than uncompiled" if speed < SLOWER else ""
    reason = f"compiled and ran a small attention in {seconds} s{slowly}."
    return Proof(True, reason, seconds, startup_seconds=startup, speed=speed)


def _speed(compiled: Callable[[], object], uncompiled: Callable[[], object], device: torch.device) -> float:
    """How many times as fast the compiled one is: the best of a few runs by turns, of more when it is slower."""
    watch, start = Stopwatch(device), time.perf_counter()
    times: list[list[float]] = []
    speed = 0.0
    while speed < SLOWER and (not times or time.perf_counter() - start < _SECONDS):
        times += [[watch.time(run, wait=True)[1] for run in (uncompiled, compiled)] for _ in range(_ROUNDS)]
        best = [min(column) for column in zip(*times, strict=True)]
        speed = round(best[0] / max(best[1], 1e-6), 2)
    return speed
