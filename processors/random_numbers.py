"""The random numbers of this process, put back as they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def numbers_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Leaves the random numbers that come next as they were: torch's, Python's and, where it is loaded, numpy's.

    Args:
        seed: of the numbers that torch, on the CPU, and Python draw inside; None goes on with those that come next.
    """
    numpy = sys.modules.get("numpy")
    state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    devices = [device] if device.type == "cuda" and torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                torch.default_generator.manual_seed(seed)  # manual_seed would reach every GPU
                random.seed(seed)
            yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpy_state)
