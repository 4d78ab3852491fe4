"""What all share, put back as it was: random numbers, PyTorch's settings, and where output goes."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import is_
from typing import Any

import torch
from torch import overrides
from torch.utils import _device

Setting = tuple[Callable[[], Any], Callable[[Any], Any]]


def _settings() -> Iterator[Setting]:
    """What holds for all of PyTorch, as people set it for speed: how it is asked, and set."""
    yield torch.get_default_dtype, torch.set_default_dtype
    yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    yield torch.get_num_threads, torch.set_num_threads
    yield torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode
    kernels: Any = torch.backends.cuda
    for name in ("flash", "mem_efficient", "math", "cudnn"):
        if hasattr(kernels, f"enable_{name}_sdp"):
            yield getattr(kernels, f"{name}_sdp_enabled"), getattr(kernels, f"enable_{name}_sdp")


_SETTINGS = tuple(_settings())


@contextmanager
def defaults_kept() -> Iterator[None]:
    """Leaves PyTorch's settings as they were, the default dtype and device among them: other models and nodes would go
    on with others. And leaves streams to write to: without, ComfyUI's progress bar ends every later sampling."""
    were, device = [_asked(ask) for ask, _ in _SETTINGS], _DefaultDevice()
    streams = [(name, stream) for name in ("stdout", "stderr") if _can_write(stream := getattr(sys, name, None))]
    try:
        yield
    finally:
        device.put_back()
        for name, stream in streams:
            if not _can_write(getattr(sys, name, None)):
                setattr(sys, name, stream if _can_write(stream) else _nowhere())
        for (ask, put), was in zip(_SETTINGS, were, strict=True):
            if was is not None and _asked(ask) != was:
                put(was)


def _nowhere() -> Any:
    return open(os.devnull, "w", encoding="utf-8")


def _can_write(stream: Any) -> bool:
    return stream is not None and not getattr(stream, "closed", False)


def _asked(ask: Callable[[], Any]) -> Any:
    """None where PyTorch does not say: it refuses where its older and newer ways to set a precision were both used."""
    with suppress(RuntimeError):
        return ask()
    return None


class _DefaultDevice:
    """The default device of this thread, and what else takes PyTorch's calls here, as they are when this is made.

    Put back as a whole: where one was set inside another context, as a check has one, PyTorch would bring that context
    back once it has ended.
    """

    def __init__(self) -> None:
        self._modes = _modes()
        self._default = getattr(_default(), "device_context", None)
        self._current = getattr(_device, "CURRENT_DEVICE", None)

    def put_back(self) -> None:
        default = _default()
        if default is not None and getattr(default, "device_context", None) is not self._default:
            default.device_context = self._default
        if getattr(_device, "CURRENT_DEVICE", None) != self._current:
            _device.CURRENT_DEVICE = self._current
        now = _modes()
        if len(now) == len(self._modes) and all(map(is_, now, self._modes)):
            return
        for _ in now:
            overrides._pop_mode()
        for mode in self._modes:
            overrides._push_mode(mode)


def _modes() -> list[Any]:
    return overrides._get_current_function_mode_stack()


def _default() -> Any:
    return getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)


@contextmanager
def numbers_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Leaves the random numbers that come next as they were: torch's, Python's and, where it is loaded, numpy's. And
    PyTorch's settings.

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
