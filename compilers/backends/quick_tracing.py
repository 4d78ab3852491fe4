"""What Python does beside while something is traced and compiled, and could leave."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_tracing() -> Iterator[None]:
    """While it is open, the collector looks only at new objects, and what operations give for fake tensors is not
    kept."""
    with _young_objects_alone(), _nothing_kept_of_fake_tensors():
        yield


@contextlib.contextmanager
def _young_objects_alone() -> Iterator[None]:
    """Compilers make millions of objects, so the collector runs often, and all that ComfyUI has loaded would be looked
    at each time."""
    if gc.get_freeze_count():  # someone else keeps objects out of it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _nothing_kept_of_fake_tensors() -> contextlib.AbstractContextManager[object]:
    """PyTorch keeps the forms of results, which helps where forms are numbers. Where they are symbols, of a graph for
    every batch, keeping one makes its result a second time, and few are asked for again."""
    from torch._dynamo import config

    if not hasattr(config, "fake_tensor_cache_enabled"):
        return contextlib.nullcontext()
    patched: contextlib.AbstractContextManager[object] = config.patch(fake_tensor_cache_enabled=False)
    return patched
