"""C++ of a graph that is compiled beside the thread that samples, which traces other graphs meanwhile.

Only graphs that are one file are left so: Inductor waits for that file where it loads the graph, and nowhere before
(torch 2.11, ``torch._inductor.codecache.CppWrapperCodeCache``).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from ....patching.ending.stopping import OWN
from ....patching.user_code import PAUSE
from ...blocks.shared_graph import SharedGraph, Unfinished
from ...compile_cache.plain_paths import folders_are_split
from .cancelling import end_processes

#: Compilers that run beside at a time.
_SLOTS = threading.BoundedSemaphore(2)

#: How far they give way to the picture that is made meanwhile: as ``nice`` has it.
GIVES_WAY = 10


#: Those that there are: their compilers end with this process.
_LIBRARIES: weakref.WeakSet[CppLibrary] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for library in list(_LIBRARIES):
        if library.at_work:
            library.end()


class NotBuilt(Exception):
    """The compiler that ran beside failed: its cause says how."""


class CppLibrary:
    """One library, and the files that its compilers write. They begin at once; once more where someone else ended
    them, as the system does for want of memory."""

    def __init__(self, build: Callable[[], None], files: Sequence[Path]):
        self.load: Callable[[], Any] = lambda: None  # once they have ended
        self._build, self._files = build, files
        _LIBRARIES.add(self)
        self._begin()

    def _begin(self) -> None:
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"{OWN}C++", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        _give_way()
        with _SLOTS:
            for _ in range(2):
                if self._ended:
                    return
                self._error = self._built()
                if self._error is None:
                    self._ended = False
                if not _was_killed(self._error):
                    return

    def _built(self) -> BaseException | None:
        """Builds it, or says what was raised."""
        try:
            self._build()
        except BaseException as error:
            for file in self._files:  # there may be half of it
                with contextlib.suppress(OSError):
                    file.unlink()
            return error
        return None

    @property
    def at_work(self) -> bool:
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether it is there, or failed."""
        return not (self.at_work or self._ended)

    def end(self) -> None:
        """Ends its compilers, or keeps them from beginning."""
        self._ended = True
        for file in self._files:
            end_processes(file, others=False)

    def go_on(self) -> None:
        """Begins anew where it was ended."""
        if self._ended and not self.at_work:
            self._begin()

    def result(self) -> None:
        """Waits until it is there. Inductor calls it so.

        Raises:
            CppCompileError: when a compiler failed. One that someone else ended begins anew after that.
        """
        self._wait()
        self.go_on()
        self._wait()
        if self._error is not None:
            self._ended = _was_killed(self._error)
            raise self._error

    def _wait(self) -> None:
        while self.at_work:
            self._thread.join(PAUSE)  # no longer at a time: Cancel comes between two


def _give_way() -> None:
    """Lowers the priority of this thread and of processes that it starts: on Linux a thread has its own."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, max(GIVES_WAY, os.getpriority(os.PRIO_PROCESS, thread)))


def _was_killed(error: BaseException | None) -> bool:
    """Whether a signal ended the compiler."""
    return getattr(getattr(error, "__cause__", None), "returncode", 0) < 0


@contextlib.contextmanager
def built_beside(graph: SharedGraph) -> Iterator[list[CppLibrary]]:
    """While it is open, the library of a graph that nobody waits for is built beside. It is in the list then."""
    begun: list[CppLibrary] = []
    codecache: Any = importlib.import_module("torch._inductor.codecache")
    cls = getattr(codecache, "CppWrapperCodeCache", None)
    if graph.waits or not hasattr(cls, "load_pybinding_async") or folders_are_split():
        yield begun
        return
    try:
        with mock.patch.object(cls, "load_pybinding", partial(_load, cls, begun)):
            yield begun
    except BaseException:  # Cancel among others: nobody will ask for it
        for library in begun:
            library.end()
        raise


def _load(cls: Any, begun: list[CppLibrary], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """In place of Inductor's own, which waits: the function of a library that is loaded when it is called."""
    known = set(cls.cache)

    def submit(build: Any) -> Any:
        files = _files_of(build)
        if not files:
            return _AtOnce()
        begun.append(CppLibrary(build, files))
        return begun[-1]

    load = cls.load_pybinding_async(*args, submit_fn=submit, **kwargs)
    if not begun:
        return load()
    names = set(cls.cache) - known

    def loaded() -> Any:
        try:
            return load()
        except Exception as error:
            for name in names:  # Inductor would raise the same at every later try
                cls.cache.pop(name, None)
            raise NotBuilt from error

    begun[-1].load = loaded
    return lambda handles: load()(handles)


class _AtOnce:
    """In place of a library: Inductor, having asked for it, builds what is not there."""

    def result(self) -> None:
        return None


def _files_of(build: Any) -> list[Path]:
    """What Inductor's function for building a library writes; nothing where another version has it in another form."""
    try:
        return [Path(one.get_target_file_path()) for one in build.args[-1]]
    except (AttributeError, IndexError, TypeError):
        return []


def once_built(compiled: Callable[..., Any], graph: SharedGraph, library: CppLibrary) -> Callable[..., Any]:
    """A compiled graph that is loaded with its first run.

    Raises (the graph that it returns):
        Unfinished: while the library is being built, and ``graph.waits`` is False.
        NotBuilt: when the compiler failed.
    """
    waiting: list[CppLibrary] = [library]

    def run(*args: Any) -> Any:
        if waiting:
            if not (graph.waits or library.ready):
                raise Unfinished
            library.load()
            waiting.clear()
            graph.library = None
        return compiled(*args)

    return run
