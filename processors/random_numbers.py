"""What all share, put back as it was: random numbers, and the dtype and device that tensors have by default."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch


@contextmanager
def defaults_kept() -> Iterator[None]:
    """Leaves PyTorch's default dtype and device as they were: other models and nodes would go on with others."""
    dtype, device = torch.get_default_dtype(), _default_device()
    try:
        yield
    finally:
        if torch.get_default_dtype() is not dtype:
            torch.set_default_dtype(dtype)
        if _default_device() != device:
            with suppress(AssertionError, RuntimeError):  # another context, as while a check looks, took its place
                torch.set_default_device(device)


def _default_device() -> torch.device | None:
    """The one that was set for this thread, None where none was: torch's own question cannot tell that from the CPU."""
    context = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    return getattr(context, "device", None)


@contextmanager
def numbers_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Leaves the random numbers that come next as they were: torch's, Python's and, where it is loaded, numpy's. And
    the default dtype and device.

    Args:
        seed: of the numbers that torch, on the CPU, and Python draw inside; None goes on with those that come next.
    """
    numpy = sys.modules.get("numpy")
    state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    devices = [device] if device.type == "cuda" and torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices), defaults_kept():
            if seed is not None:
                torch.default_generator.manual_seed(seed)  # manual_seed would reach every GPU
                random.seed(seed)
            yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpy_state)
