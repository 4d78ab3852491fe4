"""What is one for the whole process, put back as it was: random numbers, and the dtype that tensors have by default."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def default_dtype_kept() -> Iterator[None]:
    """Leaves PyTorch's default dtype as it was: other models and nodes would go on with another one."""
    before = torch.get_default_dtype()
    try:
        yield
    finally:
        if torch.get_default_dtype() is not before:
            torch.set_default_dtype(before)


@contextmanager
def numbers_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Leaves the random numbers that come next as they were: torch's, Python's and, where it is loaded, numpy's. And
    the default dtype.

    Args:
        seed: of the numbers that torch, on the CPU, and Python draw inside; None goes on with those that come next.
    """
    numpy = sys.modules.get("numpy")
    state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    devices = [device] if device.type == "cuda" and torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices), default_dtype_kept():
            if seed is not None:
                torch.default_generator.manual_seed(seed)  # manual_seed would reach every GPU
                random.seed(seed)
            yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpy_state)
