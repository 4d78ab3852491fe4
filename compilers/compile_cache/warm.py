"""The warm start: what a graph compiled to is kept, and put back before it is compiled again."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from . import earlier
from .folder import CacheUnusable, prepare, told
from .keys import tool_key
from .one_compile import Compile
from .store import Deleted, Entry, NotOurs, Store, delete_all
from .workspace import NoWorkspace, Workspace

log = logging.getLogger(__name__)

#: Bytes that the store may take when nobody says otherwise.
DEFAULT_LIMIT = 2 * 2**30


@dataclass(frozen=True)
class Place:
    """Where compiled code is kept, None for nowhere, and how many bytes it may take.

    ``others`` are this pack's folders that are not in use now. ``old`` is the one of version 0.4.0, and ``among`` a
    folder of the user's own in which that version kept entries; ``refused`` one that is not used any more, where it may
    have kept some: only clearing deletes there. ``note`` is what people should know of the choice.
    """

    folder: Path | None = None
    limit: int = DEFAULT_LIMIT
    others: tuple[Path, ...] = ()
    old: Path | None = None
    among: Path | None = None
    refused: Path | None = None
    note: str | None = None


class WarmStart:
    """The one of this process. ``place`` is asked at every compile, ``used`` told the folder; the nodes set both. No
    failure of the disk is an error here: the graph is compiled without what is kept, and ``notes`` says so."""

    def __init__(self) -> None:
        self.place: Callable[[], Place] = Place
        self.used: Callable[[Path], None] = lambda folder: None
        self.notes: list[str] = []
        self.generation = 0
        self._workspace_of = 0
        self._lock = threading.RLock()
        self._workspace: Workspace | None = None
        self._without_old: set[Path | None] = set()

    @contextlib.contextmanager
    def compiling(self, key: str) -> Iterator[Compile]:
        """Around one compile by Inductor. Only one runs at a time, because its folder belongs to the process.

        Raises:
            NoWorkspace: when there is no private folder to compile in.
        """
        with self._lock:
            compile_ = Compile(key, self.generation)
            workspace = compile_.workspace = self._room()
            compile_.store = self._store()
            compile_.found = self._read(compile_.store, key, workspace)
            compile_.before = workspace.snapshot()
            is_warm = compile_.found is not None
            with (
                contextlib.nullcontext() if is_warm else self._tool("headers", workspace, headers=True),
                workspace.in_use(),
                _nothing_remote(),
                _no_header(is_warm),
                workspace.whole_or_gone(compile_.before),
            ):
                yield compile_
            compile_.files = workspace.added(compile_.before)

    @contextlib.contextmanager
    def in_private(self, what: str = "") -> Iterator[None]:
        """Around whatever else may load what Inductor or Triton built: they look for it in our private folder, not in
        one where other users of this machine may have put something. With ``what`` as its name, what they build is kept
        for the next start.

        Raises:
            NoWorkspace: when there is no private folder.
        """
        with self._lock:
            workspace = self._room()
            with self._tool(what, workspace) if what else contextlib.nullcontext(), workspace.in_use():
                yield

    @contextlib.contextmanager
    def _tool(self, what: str, workspace: Workspace, headers: bool = False) -> Iterator[None]:
        """What Inductor builds for itself meanwhile comes from the store, and is kept there. Headers are large, and
        needed late: they are read beside."""
        key, generation = tool_key(what), self.generation
        store = None if headers and workspace.snapshot(headers) else self._store()
        with ThreadPoolExecutor(1, "OneDiff reading") as beside:
            reading = beside.submit(self._read, store, key, workspace)
            if not headers:
                reading.result()
            before = {} if headers else workspace.snapshot()
            with workspace.headers_after(reading.result):
                yield
        found = reading.result()
        kept = found.files if found else {}
        names = [name for name in workspace.added(before, headers) if not (headers and name in kept)]
        if store is None or not names or generation != self.generation:
            return
        try:
            files = {**kept, **workspace.read(names)}
            store.write(key, Entry(files, 0.0))
            if generation != self.generation:  # cleared meanwhile
                store.drop(key)
        except OSError as error:
            self.note(f"Compiled code could not be kept in the compile cache ({told(error)}).", store.folder)

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
                files = workspace.read(sorted({*compile_.files, *compile_.late(workspace)}))
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
            self.note(f"Compiled code could not be kept in the compile cache ({told(error)}).", store.folder)

    def clear(self) -> Deleted:
        """Forgets everything, in this process from the next compile on, and deletes what is on disk, wherever it was
        kept. Waits for nothing: a graph that is being compiled meanwhile is not kept."""
        self.generation += 1
        self.notes = []
        try:
            place = self.place()
        except (OSError, RuntimeError, ValueError) as error:
            return Deleted(0, 1, told(error))
        deleted = _delete_old(place)
        if place.refused is not None:
            deleted += earlier.delete_among_others(place.refused)
        for folder in {one for one in (place.folder, *place.others) if one is not None}:
            deleted += delete_all(folder)
        if self._lock.acquire(blocking=False):  # else a graph compiles in it; the next one deletes it
            try:
                if self._workspace is not None:
                    self._workspace.delete()
            finally:
                self._lock.release()
        return deleted

    def note(self, text: str, path: Path | None = None) -> None:
        """Something that people should know of; said once. Records and pictures carry it, so only the console is told
        the path."""
        if text not in self.notes:
            self.notes.append(text)
            log.warning("OneDiff: %s%s", text, f" It is about {path}." if path else "")

    def _store(self) -> Store | None:
        try:
            place = self.place()
            if place.note:
                self.note(place.note)
            if place.among not in self._without_old:
                self._without_old.add(place.among)
                _delete_old(place)
            if place.folder is None:
                return None
            folder = prepare(place.folder)
            self.used(folder)
            return Store(folder, place.limit)
        except CacheUnusable as error:
            self.note(f"Nothing compiled is kept for the next start: {error}", error.path)
        except (OSError, RuntimeError, ValueError) as error:
            self.note(f"Nothing compiled is kept for the next start: the folder cannot be used ({told(error)}).")
        return None

    def _room(self) -> Workspace:
        if self._workspace_of != self.generation:
            self._forget_workspace()
        if self._workspace is None or not self._workspace.folder.is_dir():
            try:
                self._workspace = Workspace()
            except OSError as error:
                raise NoWorkspace(
                    f"no private folder can be made in the temporary folder ({told(error)}): make room there, or name "
                    "another with the environment variable TMPDIR (on Windows TEMP) and restart ComfyUI."
                ) from error
        return self._workspace

    def _forget_workspace(self) -> None:
        """After everything was cleared: Inductor remembers paths in the folder."""
        from torch._inductor import utils

        if self._workspace is not None:
            self._workspace.delete()
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
            self.note(f"The compile cache cannot be read ({told(error)}).", store.folder)
        return None


def _kernels(files: dict[str, bytes], all_: bool) -> dict[str, bytes]:
    """What an entry had that the next one needs: of a graph that Inductor did not take, the machine code alone."""
    return {
        name: content for name, content in files.items() if all_ or not name.startswith(("fxgraph/", "aotautograd/"))
    }


def _delete_old(place: Place) -> Deleted:
    """What version 0.4.0 kept."""
    deleted = Deleted()
    if place.old is not None:
        # It may be a link to a folder of the user's, or to this version's.
        deleted += earlier.delete_among_others(place.old, unsigned=not place.old.is_symlink())
        with contextlib.suppress(OSError):
            place.old.rmdir()
    if place.among is not None:
        deleted += earlier.delete_among_others(place.among)
    return deleted


@contextlib.contextmanager
def _nothing_remote() -> Iterator[None]:
    """What a server keeps for Inductor, where somebody has set one up, is not signed here: it is not asked."""
    import torch._functorch.config
    import torch._inductor.config

    with contextlib.ExitStack() as stack:
        for config, names in (
            (torch._inductor.config, _REMOTE),
            (torch._functorch.config, ("enable_remote_autograd_cache",)),
        ):
            for name in names:
                if getattr(config, name, False):
                    stack.enter_context(config.patch({name: False}))
        yield


_REMOTE = ("fx_graph_remote_cache", "autotune_remote_cache", "bundled_autotune_remote_cache")


@contextlib.contextmanager
def _no_header(warm: bool) -> Iterator[None]:
    """While the C++ comes from the store, Inductor need not precompile the header that all of it includes, of kernels
    or of whole graphs: that takes longer than everything else, once in each process."""
    from torch._inductor import codecache

    with contextlib.ExitStack() as stack:
        for name in ("_get_cpp_prefix_header", "_get_cpp_wrapper_header"):
            if warm and hasattr(codecache, name):
                stack.enter_context(mock.patch.object(codecache, name, lambda *_args: None))
        yield


#: The one of this process.
WARM = WarmStart()
