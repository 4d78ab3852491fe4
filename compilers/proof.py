"""The proof that a backend works on a device: it compiles something tiny, and the result is compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from .explain import is_out_of_memory, missing_tool
from .graphs import SharedGraph
from .parity import compare

if TYPE_CHECKING:
    from .backends import Backend


@dataclass(frozen=True)
class Proof:
    """Whether a backend compiled and ran something tiny on a device, and how long that took.

    ``startup_seconds`` is what went before, where the proof runs in a process of its own. ``passing`` marks a reason
    that may be gone the next time, such as a full device.
    """

    available: bool
    reason: str
    seconds: float | None = None
    passing: bool = False
    startup_seconds: float | None = None


class _Tiny(nn.Module):
    """A linear layer and an attention: what every model has."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def try_out(backend: Backend, device: torch.device) -> Proof:
    """Compiles and runs something tiny in this process."""
    start = time.perf_counter()
    try:
        with torch.inference_mode():
            module = _Tiny().to(device)
            x = torch.randn(2, 24, 16, device=device)
            compiled = backend.compile(module, SharedGraph(_Tiny.forward, "proof"), "fast start")
            parity = compare(compiled(x), module(x))
    except Exception as error:  # whatever a compiler raises, the answer is "no, because"
        return Proof(False, missing_tool(error, device) or backend.explain(error)[0], passing=is_out_of_memory(error))
    seconds = round(time.perf_counter() - start, 1)
    if not parity.passed:
        return Proof(False, f"it computes wrong numbers here ({parity.relative:.1e} relative difference).", seconds)
    return Proof(True, f"compiled and ran a small attention in {seconds} s.", seconds)
