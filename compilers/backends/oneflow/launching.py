"""Takes out of OneFlow a queue of started graphs, in which it breaks its own memory."""

from __future__ import annotations

import ctypes
import mmap
import platform
from typing import Any

import oneflow as flow

from ..protocol import BackendUnavailable

#: ``EnqueueNNGraph`` and ``DequeueNNGraph`` of OneFlow's ``LazyJobStreamPolicy``; neither returns anything.
QUEUE = (
    "_ZN7oneflow2vm19LazyJobStreamPolicy14EnqueueNNGraphERKSt10shared_ptrINS_9NNGraphIfEE",
    "_ZN7oneflow2vm19LazyJobStreamPolicy14DequeueNNGraphEv",
)

#: "Return" for x86-64, the only processor that OneFlow's wheels are for.
RETURN = b"\xc3"


def without_queue() -> None:
    """Makes both functions return at once. Whoever runs graphs must then see to it that one runs at a time.

    OneFlow 0.9.0, and its newest source too, starts a graph and puts it into the queue afterwards; when it has run, its
    own thread takes the front out. A graph that is faster than that, because it is small or the processor busy, takes
    from an empty ``std::queue``. What comes of it was seen: a segmentation fault in ``DequeueNNGraph`` or in
    ``WaitUntilQueueEmptyIfFrontNNGraphNotEquals`` while Python waits in ``Sync``, a wait for ever, or a crash when the
    process ends and the queue is destroyed. All that the queue is for is that different graphs do not run at once.

    Raises:
        BackendUnavailable: when this OneFlow is built otherwise, or its code may not be changed here.
    """
    try:
        if platform.machine() not in ("x86_64", "AMD64"):
            raise OSError(f"the processor is {platform.machine()}")
        library = ctypes.CDLL(flow._oneflow_internal.__file__)
        for name in QUEUE:
            _overwrite(getattr(library, name), RETURN)
    except (AttributeError, OSError) as error:
        reason = f"its graphs could crash this process, and that cannot be prevented here ({error}); use inductor."
        raise BackendUnavailable("oneflow", reason) from error


def _overwrite(function: Any, code: bytes) -> None:
    """Replaces the start of a function in this process's memory; the library's file stays as it is."""
    system = ctypes.CDLL(None, use_errno=True)
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    page = ctypes.c_void_p(address - address % mmap.PAGESIZE)

    def protect(protection: int) -> None:
        if system.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), protection):
            raise OSError(ctypes.get_errno(), "the system does not let its code be changed")

    protect(mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    ctypes.memmove(address, code, len(code))
    protect(mmap.PROT_READ | mmap.PROT_EXEC)
