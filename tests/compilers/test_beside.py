"""A graph's C++ is compiled beside, while other graphs are traced; what becomes of it when it is cancelled or fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from onediff_pack.compilers.backends.inductor import beside, effort
from onediff_pack.compilers.backends.inductor.backend import InductorBackend
from onediff_pack.compilers.backends.inductor.beside import CppLibrary, built_beside
from onediff_pack.compilers.blocks.shared_graph import SharedGraph, Unfinished
from onediff_pack.compilers.compile_cache import WARM, Place
from onediff_pack.compilers.compile_cache.store import Store
from torch import nn

#: A compiler that waits until ``go`` is there, having left half a file and said so, and fails for whole graphs where
#: ``broken`` is there.
COMPILER = """#!{python}
import os, pathlib, sys, time
folder = pathlib.Path({folder!r})
if "-o" in sys.argv and sys.argv[sys.argv.index("-o") + 1].endswith(".so"):
    source = "".join(pathlib.Path(word).read_text() for word in sys.argv if word.endswith(".cpp"))
    if (folder / "broken").exists() and "inductor_entry_impl" in source:
        sys.exit("not in one file")
    if not (folder / "go").exists():
        pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_text("half a file")
        (folder / "runs").write_text("runs")
        for _ in range(1200):
            if (folder / "go").exists():
                break
            time.sleep(0.05)
os.execvp("g++", ["g++", *sys.argv[1:]])
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="whole graphs are one file on Linux")


class Doubles(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin() * 2 + x


class Halves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cos() / 2 - x


@dataclass
class Compiling:
    """The compiler's ``folder``, and the one where graphs are ``kept``."""

    folder: Path
    kept: Path

    def tell(self, what: str) -> None:
        (self.folder / what).touch()

    def starts(self) -> None:
        end = time.monotonic() + 30
        while not (self.folder / "runs").exists():
            assert time.monotonic() < end
            time.sleep(0.01)

    def graph(self, cls: type[nn.Module]) -> tuple[SharedGraph, Callable, nn.Module]:
        graph, module = SharedGraph(cls.forward, f"{cls.__name__} beside"), cls().eval()
        graph.waits = False
        return graph, InductorBackend().compile(module, graph, "fast start"), module

    def halves(self) -> list[Path]:
        """Libraries of which a compiler left a half."""
        assert WARM._workspace is not None
        found = WARM._workspace.folder.rglob("*.so")
        return [path for path in found if path.read_bytes() == b"half a file"]

    def names(self) -> list[set[str]]:
        """The files of each graph that is kept."""
        store, entries = Store(self.kept, 2**30), []
        for path in self.kept.glob("*.graph"):
            entry = store.read(path.stem)
            assert entry is not None
            entries.append(set(entry.files))
        return entries


@pytest.fixture
def compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiling]:
    import torch._inductor.config as config

    InductorBackend().start_up(torch.device("cpu"))
    compiler, kept = tmp_path / "compiler.py", tmp_path / "kept"
    compiler.write_text(COMPILER.format(python=sys.executable, folder=str(tmp_path)))
    compiler.chmod(0o755)
    kept.mkdir(mode=0o700)
    monkeypatch.setattr(effort, "compiles_few_at_a_time", lambda: True)
    monkeypatch.setattr(WARM, "place", lambda: Place(kept))
    WARM.clear()
    settings = config.patch({"cpp.cxx": (str(compiler),), "cpp_cache_precompile_headers": False})
    with settings, torch.inference_mode():
        yield Compiling(tmp_path, kept)


@contextmanager
def waiting(graph: SharedGraph) -> Iterator[None]:
    graph.waits = True
    yield
    graph.waits = False


def test_another_graph_is_compiled_while_the_first_ones_compiler_runs_and_each_is_kept_whole(
    compiling: Compiling,
) -> None:
    x = torch.randn(64, 64)
    first, run_first, doubles = compiling.graph(Doubles)
    second, run_second, halves = compiling.graph(Halves)
    for run in (run_first, run_second, run_first):
        with pytest.raises(Unfinished):
            run(x)
    compiling.starts()
    assert (first.graphs, second.graphs) == (1, 1)
    assert compiling.names() == []
    compiling.tell("go")
    for graph, run, module in ((first, run_first, doubles), (second, run_second, halves)):
        with waiting(graph):
            torch.testing.assert_close(run(x), module(x))
        assert (graph.library, graph.graphs, graph.cache_misses, graph.reasons) == (None, 1, 1, [])
    kept = compiling.names()
    assert len(kept) == 2
    assert not kept[0] & kept[1]
    assert [sum(name.endswith(".so") for name in names) for names in kept] == [1, 1]


def test_a_compiler_that_was_ended_begins_anew_when_its_library_is_needed(compiling: Compiling) -> None:
    x = torch.randn(64, 64)
    graph, run, module = compiling.graph(Doubles)
    with pytest.raises(Unfinished):
        run(x)
    compiling.starts()
    library = graph.library
    assert library is not None
    start = time.monotonic()
    library.end()
    while compiling.halves():
        assert time.monotonic() - start < 1
        time.sleep(0.01)
    assert not library.ready
    compiling.tell("go")
    with waiting(graph):
        torch.testing.assert_close(run(x), module(x))
    assert graph.graphs == 1


def test_one_that_was_ended_before_its_turn_does_not_begin_until_it_is_needed() -> None:
    go, begun = threading.Event(), []

    def build(number: int) -> None:
        begun.append(number)
        assert go.wait(30)

    first, second = (CppLibrary(partial(build, number), []) for number in (1, 2))
    while len(begun) < 2:
        time.sleep(0.01)
    third = CppLibrary(partial(build, 3), [])
    third.end()
    assert not (first.ready or second.ready or third.ready)
    go.set()
    first.result()
    second.result()
    while third.at_work:
        time.sleep(0.01)
    assert (sorted(begun), third.ready) == ([1, 2], False)
    third.result()
    assert (sorted(begun), third.ready) == ([1, 2, 3], True)


def test_compilers_beside_give_way_to_the_picture() -> None:
    before, asked = os.nice(0), [sys.executable, "-c", "import os; print(os.nice(0))"]
    found: list[int] = []
    CppLibrary(lambda: found.append(int(subprocess.check_output(asked))), []).result()
    assert (found, os.nice(0)) == ([max(10, before)], before)


@pytest.fixture
def at_work(tmp_path: Path) -> CppLibrary:
    """A library whose compiler runs for a minute."""
    file = tmp_path / "library.so"
    ends = [sys.executable, "-c", "import time; time.sleep(60)", str(file)]
    library = CppLibrary(lambda: _fails_if_killed(ends), [file])
    while not any(str(file) in " ".join(child.cmdline()) for child in psutil.Process().children()):
        time.sleep(0.01)
    return library


def _fails_if_killed(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError from error


def soon_ended(library: CppLibrary) -> bool:
    end = time.monotonic() + 5
    while library.at_work and time.monotonic() < end:
        time.sleep(0.01)
    return not library.at_work


def test_cancel_while_the_rest_of_a_graph_is_compiled_ends_the_compiler(at_work: CppLibrary) -> None:
    graph = SharedGraph(Doubles.forward, "Doubles cancelled")
    graph.waits = False
    with pytest.raises(KeyboardInterrupt), built_beside(graph) as begun:
        begun.append(at_work)
        raise KeyboardInterrupt
    assert soon_ended(at_work)


def test_compilers_end_with_this_process(at_work: CppLibrary) -> None:
    beside._end_all()
    assert soon_ended(at_work)


def killed() -> None:
    raise RuntimeError from subprocess.CalledProcessError(-9, "g++")


def test_one_that_someone_else_ended_begins_once_more_by_itself() -> None:
    tries: list[Callable[[], None]] = [killed, lambda: None]
    library = CppLibrary(lambda: tries.pop(0)(), [])
    library.result()
    assert (tries, library.ready) == ([], True)


def test_one_that_is_ended_each_time_fails_and_begins_anew_when_its_library_is_needed() -> None:
    tries: list[Callable[[], None]] = [killed, killed, lambda: None]
    library = CppLibrary(lambda: tries.pop(0)(), [])
    while library.at_work:
        time.sleep(0.01)
    assert library.ready, "nobody waits for it any more"
    with pytest.raises(RuntimeError):
        library.result()
    library.result()
    assert tries == []


def test_what_fails_in_one_file_is_compiled_as_many(compiling: Compiling) -> None:
    x = torch.randn(64, 64)
    compiling.tell("go")
    compiling.tell("broken")
    graph, run, module = compiling.graph(Doubles)
    with suppress(Unfinished):  # it fails soon
        run(x)
    with waiting(graph):
        torch.testing.assert_close(run(x), module(x))
    assert (graph.graphs, graph.cache_misses, graph.reasons, graph.library) == (1, 1, [], None)
