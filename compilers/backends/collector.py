"""Python's garbage collector while something is compiled."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def young_objects_alone() -> Iterator[None]:
    """While it is open, the collector looks only at what is made meanwhile. Compilers make millions of objects, so it
    runs often, and all that ComfyUI has loaded would be looked at each time."""
    if gc.get_freeze_count():  # someone else keeps objects out of it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
