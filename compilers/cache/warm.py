"""The warm start: what a graph compiled to is kept, and put back before it is compiled again."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from .folder import CacheUnusable, prepare
from .store import Entry, NotOurs, Store
from .workspace import Workspace

log = logging.getLogger(__name__)

#: Bytes that the store may take when nobody says otherwise.
DEFAULT_LIMIT = 2 * 2**30


@dataclass(frozen=True)
class Place:
    """Where compiled code is kept, None for nowhere, and how many bytes it may take."""

    folder: Path | None = None
    limit: int = DEFAULT_LIMIT


@dataclass
class Compile:
    """One compile of a graph. ``found`` is what the store had; ``hit`` whether Inductor took it."""

    key: str
    generation: int
    found: Entry | None = None
    hit: bool = False
    files: list[str] = field(default_factory=list)
    before: dict[str, tuple[int, int]] = field(default_factory=dict)
    workspace: Workspace | None = None
    store: Store | None = None

    @property
    def saved_from(self) -> float | None:
        """Seconds that the graph took when it was compiled first, None when it is compiled now."""
        return self.found.seconds if self.hit and self.found is not None else None


class WarmStart:
    """The one of this process. ``place`` is asked at every compile; the nodes set it. No failure of the disk is an
    error here: the graph is compiled without what is kept, and ``notes`` says so."""

    def __init__(self) -> None:
        self.place: Callable[[], Place] = Place
        self.notes: list[str] = []
        self.generation = 0
        self._workspace_of = 0
        self._lock = threading.RLock()
        self._workspace: Workspace | None = None

    @contextlib.contextmanager
    def compiling(self, key: str) -> Iterator[Compile]:
        """Around one compile by Inductor. Only one runs at a time, because its folder belongs to the process."""
        with self._lock:
            compile_ = Compile(key, self.generation)
            workspace = compile_.workspace = self._room()
            if workspace is None:
                with without_caches():
                    yield compile_
                return
            compile_.store = self._store()
            compile_.found = self._read(compile_.store, key, workspace)
            compile_.before = workspace.snapshot()
            with workspace.in_use(), _no_header(compile_.found is not None):
                yield compile_
            compile_.files = workspace.added(compile_.before)

    def keep(self, compile_: Compile, seconds: float) -> None:
        """After the graph ran for the first time: keeps what it left, unless it was taken from the store whole.

        Args:
            seconds: what capturing, compiling and the first run took.
        """
        workspace, store = compile_.workspace, compile_.store
        if workspace is None or store is None or compile_.generation != self.generation:
            return
        try:
            with self._lock:
                names = {*compile_.files, *workspace.added(compile_.before)}
                files = workspace.read(sorted(names))
                if not files or (compile_.hit and compile_.found is None):  # compiled before in this process
                    return
                if compile_.found is not None:
                    if compile_.hit and not files.keys() - compile_.found.files.keys():
                        return
                    files = {**_kernels(compile_.found.files, all_=compile_.hit), **files}
                    seconds = compile_.found.seconds if compile_.hit else seconds
                store.write(compile_.key, Entry(files, round(seconds, 3)))
                if compile_.generation != self.generation:  # cleared meanwhile
                    store.drop(compile_.key)
        except OSError as error:
            self.note(f"Compiled code could not be kept in {store.folder} ({error.strerror or error}).")

    def clear(self) -> int:
        """Forgets everything, in this process from the next compile on; how many graphs were kept. Waits for nothing:
        a graph that is being compiled meanwhile is not kept."""
        self.generation += 1
        self.notes = []
        store = self._store()
        return store.clear() if store is not None else 0

    def note(self, text: str) -> None:
        """Something that people should know of; said once."""
        if text not in self.notes:
            self.notes.append(text)
            log.warning("OneDiff: %s", text)

    def _store(self) -> Store | None:
        try:
            place = self.place()
            return None if place.folder is None else Store(prepare(place.folder), place.limit)
        except (CacheUnusable, OSError, RuntimeError, ValueError) as error:
            self.note(f"Nothing compiled is kept for the next start: {error}")
            return None

    def _room(self) -> Workspace | None:
        if self._workspace_of != self.generation:
            self._forget_workspace()
        if self._workspace is None or not self._workspace.folder.is_dir():
            try:
                self._workspace = Workspace()
            except OSError as error:
                self.note(f"There is no room to keep compiled code in the temporary folder ({error}).")
                return None
        return self._workspace

    def _forget_workspace(self) -> None:
        """After everything was cleared: Inductor remembers paths in the folder."""
        from torch._inductor import utils

        self._workspace, self._workspace_of = None, self.generation
        clear_caches = getattr(utils, "clear_caches", None) or utils.clear_inductor_caches  # its name before torch 2.7
        clear_caches()

    def _read(self, store: Store | None, key: str, workspace: Workspace) -> Entry | None:
        if store is None:
            return None
        try:
            entry = store.read(key)
            if entry is not None:
                workspace.put(entry.files)
            return entry
        except NotOurs as error:
            self.note(f"In the compile cache, {error}")
            store.drop(key)
        except OSError as error:
            self.note(f"The compile cache {store.folder} cannot be read ({error.strerror or error}).")
        return None


def _kernels(files: dict[str, bytes], all_: bool) -> dict[str, bytes]:
    """What an entry had that the next one needs: of a graph that Inductor did not take, the machine code alone."""
    return {
        name: content for name, content in files.items() if all_ or not name.startswith(("fxgraph/", "aotautograd/"))
    }


def without_caches() -> contextlib.AbstractContextManager[Any]:
    """Inductor neither reads nor writes its caches: what they hold elsewhere is not ours to trust."""
    import torch._functorch.config
    import torch._inductor.config

    stack = contextlib.ExitStack()
    for config, name in (
        (torch._inductor.config, "fx_graph_cache"),
        (torch._functorch.config, "enable_autograd_cache"),
    ):
        if hasattr(config, name):
            stack.enter_context(config.patch({name: False}))
    return stack


@contextlib.contextmanager
def _no_header(warm: bool) -> Iterator[None]:
    """While the C++ comes from the store, Inductor need not precompile the header that all of it includes: that takes
    longer than everything else, once in each process."""
    from torch._inductor import codecache

    if not warm or not hasattr(codecache, "_get_cpp_prefix_header"):
        yield
        return
    with mock.patch.object(codecache, "_get_cpp_prefix_header", lambda device: None):
        yield


#: The one of this process.
WARM = WarmStart()
