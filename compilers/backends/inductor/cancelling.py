"""Cancel while Inductor waits for a C++ compiler: the compiler's process is ended."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ....patching.ending.stopping import OWN
from ....patching.user_code import PAUSE, Attendance, Cancel
from ..protocol import Cancelled


@contextlib.contextmanager
def ending_processes(cancel: Cancel, folder: Path, end: Callable[[Path], None] | None = None) -> Iterator[Cancel]:
    """While it is open, Cancel ends the compilers that this process has started; ``folder`` is where their files are.
    Gives the Cancel for the work inside: ComfyUI tells of it once, and the one who asked here may have heard it.

    Raises:
        Cancelled: after Cancel, whatever became of the work inside.
    """
    end, attendance, over = end or end_processes, Attendance(cancel, math.inf), threading.Event()

    def look() -> None:
        while not over.wait(PAUSE):
            if attendance.due() is not None:
                end(folder)

    watch = threading.Thread(target=look, name=f"{OWN}cancelling", daemon=True)
    watch.start()
    try:
        yield attendance.inside()
    finally:
        over.set()
        watch.join()
        reason = attendance.due()
        if reason is not None:
            raise Cancelled(reason) from None


def end_processes(path: Path, others: bool = True) -> None:
    """Ends those of this process' children that name a file, or one in a folder, and what these started; with
    ``others`` all that compile C++."""
    try:
        import psutil  # ComfyUI needs it
    except ImportError:
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    compiler = get_cpp_compiler()
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if (others and compiler in command[:2]) or any(str(path) in word for word in command):
                    for each in (*process.children(recursive=True), process):
                        each.terminate()
