"""What Inductor and Triton build and load lies where nobody else can put anything."""

from __future__ import annotations

import ctypes
import functools
import linecache
import os
import pickle
import re
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from onediff_pack.compilers.backends.inductor import vector_instructions
from onediff_pack.compilers.backends.inductor.failures import explain
from onediff_pack.compilers.backends.nexfort import NexfortBackend
from onediff_pack.compilers.choice import child as proof_process
from onediff_pack.compilers.compile_cache import WarmStart
from onediff_pack.compilers.compile_cache.workspace import Workspace

codecache = pytest.importorskip("torch._inductor.codecache")
cpu_vec_isa = pytest.importorskip("torch._inductor.cpu_vec_isa")

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
PLANTED = """
#include <stdio.h>
__attribute__((constructor)) static void run() { FILE *trap = fopen("%s", "w"); if (trap) fclose(trap); }
"""


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The folder that Inductor uses when nobody names another, which any user of a machine can make first."""
    folder = tmp_path / "torchinductor_user"
    folder.mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="builds a library with the compiler's Linux flags")
def test_a_library_that_somebody_left_where_vector_instructions_are_tried_is_not_loaded(shared, tmp_path, monkeypatch):
    """The compiler is stood in for by one that copies a harmless library, and the process that loads it by this one."""
    harmless, harmful, trap = tmp_path / "harmless.so", tmp_path / "harmful.so", tmp_path / "sprung"
    for file, code in ((harmless, "int nothing;"), (harmful, PLANTED % trap)):
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(file)]
        subprocess.run(command, input=code, text=True, check=True)
    loaded = []

    def load(command, **_options):
        loaded.append(Path(re.search(r'LoadLibrary\("(.+)"\)', command[-1])[1]))
        ctypes.CDLL(str(loaded[-1]))

    def build(builder):
        target = Path(builder.get_target_file_path())
        target.write_bytes(source.read_bytes())
        if source is harmful:
            planted.append(target)

    monkeypatch.setattr(cpu_vec_isa.subprocess, "check_call", lambda *_args, **_options: None)
    monkeypatch.setattr("torch._inductor.cpp_builder.CppBuilder.build", build)
    kind, planted, source = cpu_vec_isa.VecAVX2(), [], harmful
    assert kind.check_build(kind._avx_code), "planted, under the name that Inductor will look for"
    assert planted[0].is_relative_to(shared)
    source = harmless
    monkeypatch.setattr(cpu_vec_isa.subprocess, "check_call", load)
    monkeypatch.setattr(cpu_vec_isa, "supported_vec_isa_list", [Kind(kind)])
    monkeypatch.setattr(vector_instructions, "WARM", WarmStart(), raising=False)
    cpu_vec_isa.valid_vec_isa_list.cache_clear()
    try:
        vector_instructions.find_vector_instructions()
    finally:
        cpu_vec_isa.valid_vec_isa_list.cache_clear()
    assert loaded
    assert not trap.exists()
    assert not any(path.is_relative_to(shared) for path in loaded)


class Kind:
    """A kind of vector instructions that is always built and loaded, whatever this machine's processor has."""

    def __init__(self, kind):
        self.kind = kind

    def __str__(self):
        return ""

    def __bool__(self):
        return self.kind.check_build(self.kind._avx_code)

    def bit_width(self):
        return 256


def test_what_is_built_for_the_trial_is_kept_signed_for_the_next_start(tmp_path):
    from onediff_pack.compilers import Place

    built = []
    for _start in range(2):
        warm = WarmStart()
        warm.place = lambda: Place(tmp_path / "kept", 10**6)
        with warm.in_private("vector instructions"):
            library = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "ab" / "c.so"
            if not library.exists():
                library.parent.mkdir(parents=True)
                library.write_bytes(b"built")
                built.append(library)
    assert len(built) == 1
    assert warm.clear().count == 1


@pytest.mark.skipif(not hasattr(codecache, "_HEADER_DIR"), reason="this torch precompiles no headers")
def test_headers_are_precompiled_in_the_private_folder_and_not_remembered_from_another(tmp_path, monkeypatch):
    """The planted header would be included by everything that is compiled."""
    monkeypatch.setattr(codecache, "_HEADER_DIR", str(tmp_path / "torchinductor_user" / "precompiled_headers"))
    monkeypatch.setattr(
        codecache, "_precompile_header", functools.cache(lambda name: os.path.join(codecache._HEADER_DIR, name))
    )
    shared = Path(codecache._precompile_header("header.h"))
    with WarmStart().compiling("1" * 64) as compiling:
        assert Path(codecache._precompile_header("header.h")).is_relative_to(compiling.workspace.folder)
    assert Path(codecache._precompile_header("header.h")) == shared


def test_what_inductor_loaded_from_the_private_folder_is_not_listed_for_ever():
    """It lists each module of code, of 100 KB and more, so that it can delete their files one day."""
    from torch._inductor.codecache import PyCodeCache

    workspace = Workspace()
    ours, theirs = types.ModuleType("ours"), types.ModuleType("theirs")
    ours.__file__, theirs.__file__ = str(workspace.folder / "ab" / "cab.py"), "/tmp/another_folder/cab.py"
    before = list(PyCodeCache.modules)
    try:
        with workspace.in_use():
            PyCodeCache.modules += [theirs, ours]
        assert PyCodeCache.modules == [*before, theirs]
    finally:
        PyCodeCache.modules[:] = before
        workspace.delete()


def test_a_precompiled_header_is_kept_signed_for_the_next_start_and_not_with_a_graph(tmp_path):
    from onediff_pack.compilers import Place

    names = ("header.h", "header.h.gch", "of_clang.pch")  # Clang's holds only where it was made
    found = []
    for digit in "12":
        warm = WarmStart()
        warm.place = lambda: Place(tmp_path / "kept", 10**6)
        with warm.compiling(digit * 64) as compiling:
            folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
            headers = folder / "precompiled_headers"
            compiling.workspace._wait_for_headers()  # as Inductor does before it looks for one
            headers.mkdir(exist_ok=True)
            found.append({path.name for path in headers.iterdir()})
            for name in names:
                (headers / name).write_text("compiled")
            (folder / "graph").write_text(digit)
        warm.keep(compiling, 1.0)
        assert set(compiling.store.read(digit * 64).files) == {"graph"}
    assert found == [set(), {"header.h", "header.h.gch"}]


def test_a_graph_for_a_gpu_runs_for_the_first_time_in_the_private_folder(shared):
    """Triton loads what launches kernels then. No GPU: the graph only notes where Triton would look."""
    from onediff_pack.compilers.backends.inductor.registered import first_in_private

    seen = []
    graph = first_in_private(lambda x: seen.append(os.environ["TRITON_CACHE_DIR"]) or x)
    assert [graph(1), graph(2)] == [1, 2]
    assert [Path(folder).is_relative_to(shared) for folder in seen] == [False, True]


def test_nexfort_compiles_in_the_private_folder(shared, monkeypatch):
    from onediff_pack.compilers.backends import nexfort
    from onediff_pack.compilers.blocks.shared_graph import SharedGraph

    seen = []

    def compile_module(module, _name, _options):
        return lambda x: seen.append(os.environ["TORCHINDUCTOR_CACHE_DIR"]) or x

    monkeypatch.setattr(nexfort, "compile_through_onediff", compile_module)
    monkeypatch.setattr(NexfortBackend, "load", lambda self: None)
    compiled = NexfortBackend().compile(torch.nn.Identity(), SharedGraph(torch.nn.Identity.forward, "x"), "fast start")
    compiled(1)
    assert seen
    assert not Path(seen[0]).is_relative_to(shared)


def test_a_server_that_keeps_compiled_code_for_many_is_not_asked(monkeypatch):
    from torch._inductor import config

    with config.patch({"fx_graph_remote_cache": True}):
        with WarmStart().compiling("1" * 64):
            assert not config.fx_graph_remote_cache
        assert config.fx_graph_remote_cache


def test_without_a_private_folder_nothing_is_compiled_and_the_reason_has_no_path(tmp_path, monkeypatch):
    from onediff_pack.compilers.compile_cache import NoWorkspace

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(NoWorkspace, match="TMPDIR") as caught, WarmStart().compiling("1" * 64):
        pytest.fail("compiled where others may have put something")
    assert explain(caught.value).reason == str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_clearing_deletes_what_this_process_took_from_the_store_too():
    warm = WarmStart()
    with warm.in_private():
        folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder.is_dir()
    warm.clear()
    assert not folder.exists()


def test_the_trial_process_runs_nothing_of_the_working_folder_and_keeps_to_a_folder_that_goes_with_it(
    installed, shared, tmp_path, monkeypatch
):
    """An empty part of PYTHONPATH, which many a start script leaves there, means the working folder."""
    said, sprung = tmp_path / "said", tmp_path / "sprung"
    code = f"""
        import os, tempfile
        from pathlib import Path
        seen = [os.environ["TORCHINDUCTOR_CACHE_DIR"], os.environ["TRITON_CACHE_DIR"], tempfile.gettempdir()]
        Path({str(said)!r}).write_text("\\n".join(seen))
        os._exit(3)
    """
    installed("oneflow", code)
    working = tmp_path / "working"
    working.mkdir()
    temporary = tmp_path / "temporary"  # what “..” is for a child in a folder of its own there
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in ("types", "importlib", "json", "torch", "sitecustomize", "oneflow"):
        for folder in (working, temporary):
            (folder / f"{name}.py").write_text(f"open({str(sprung)!r}, 'a').write('{folder.name}/{name} ')")
    monkeypatch.chdir(working)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "..", str(tmp_path)]))
    proof = proof_process.prove_in_child("oneflow", CPU)
    assert not sprung.exists(), sprung.read_text()
    assert "while loading oneflow (exit code 3)" in proof.reason
    folders = [Path(line) for line in said.read_text().splitlines()]
    assert len(folders) == 3
    assert not any(folder.is_relative_to(shared) or folder.exists() for folder in folders)


def test_a_full_temporary_folder_is_left_as_it_was(tmp_path, monkeypatch):
    def no_room(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "write_text", no_room)
    with pytest.raises(OSError):
        Workspace()
    assert list(tmp_path.iterdir()) == []


def test_only_folders_that_it_made_are_left_behind_ones(tmp_path, monkeypatch):
    """Somebody's own, with a file of that name, was deleted with all that was in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = {name: tmp_path / f"onediff-compile-{name}" for name in ("notes", "abcdefgh", "12345678")}
    for folder in mine.values():
        folder.mkdir(mode=0o700)
        (folder / "lock").touch()
    (mine["abcdefgh"] / "pid").write_text("my notes on pids")
    mine["12345678"].chmod(0o755)
    (mine["12345678"] / "pid").write_text("7")
    killed = Path(tempfile.mkdtemp(prefix="onediff-compile-", dir=tmp_path))
    (killed / "pid").write_text("7")
    (killed / "lock").touch()
    Workspace().delete()
    assert all(folder.exists() for folder in mine.values())
    assert not killed.exists()


def planted_bisection(shared):
    """What torch's bisector writes to be told, in every process of the user, which backend to use instead."""
    (shared / "bisect").mkdir()
    (shared / "bisect" / "bisect_status.txt").write_text("backend=eager\n")


@pytest.fixture
def asked(monkeypatch):
    """The graphs that the inductor backend is asked to compile; they run as they are."""
    from onediff_pack.compilers.backends.inductor import registered

    graphs = []
    monkeypatch.setattr(registered, "_counting_backend", lambda *_: lambda gm, _inputs: graphs.append(gm) or gm.forward)
    return graphs


def compiled():
    from onediff_pack.compilers.backends.inductor.registered import compile_with_inductor

    return compile_with_inductor(torch.nn.Linear(2, 2))


def captured():
    from onediff_pack.checks.graph import capture

    runner, _name = capture._runner()
    capture._counted.graphs = 0
    capture._call(runner, torch.nn.Identity(), (torch.ones(1, 2, 4),))
    return capture._counted.graphs


def test_a_bisection_that_somebody_planted_does_not_replace_the_backend(shared, asked):
    pytest.importorskip("torch._inductor.compiler_bisector")
    planted_bisection(shared)
    compiled()(torch.ones(2, 2))
    assert len(asked) == 1
    assert captured() == 1


@pytest.mark.parametrize("what", ["compiled", "captured"])
def test_a_profile_that_somebody_planted_is_not_unpickled_nor_written_over(shared, asked, tmp_path, what):
    pgo = pytest.importorskip("torch._dynamo.pgo")
    trap = tmp_path / "sprung"
    settings: Any = torch.compiler.config
    with settings.patch({"job_id": "nightly"}):
        profile = Path(pgo.code_state_path(pgo.get_cache_key()))
        assert profile.is_relative_to(shared)
        profile.parent.mkdir()
        profile.write_bytes(pickle.dumps(Harmful(trap)))
        planted = profile.read_bytes()
        pgo.reset_code_state()
        _ = captured() if what == "captured" else compiled()(torch.ones(2, 2))
        assert pgo.get_cache_key() is not None, "others' profiles are theirs"
    assert not trap.exists()
    assert profile.read_bytes() == planted
    assert list(profile.parent.iterdir()) == [profile]


class Harmful:
    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.mkdir, (str(self.trap),)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes among files here")
def test_a_file_that_became_a_pipe_is_not_waited_for_where_its_code_is_traced(tmp_path):
    """As one on a disk that does not answer any more: what it holds is in memory already."""
    from onediff_pack.checks.graph import capture

    text = "from torch import nn\nclass Mine(nn.Module):\n    def forward(self, x):\n        return x.sin() + 1\n"
    path, scope = tmp_path / "mine.py", {"__name__": "mine"}
    exec(compile(text, path, "exec"), scope)
    linecache.cache[str(path)] = (len(text), None, text.splitlines(True), str(path))  # as for each file that is loaded
    os.mkfifo(path)
    mine: Any = scope["Mine"]
    traced: list[int] = []

    def trace() -> None:
        capture._counted.graphs = 0
        capture._call(capture._runner()[0], mine(), (torch.ones(1, 2, 4),))
        traced.append(capture._counted.graphs)

    thread = threading.Thread(target=trace, daemon=True)
    thread.start()
    thread.join(60)
    in_time = list(traced)
    lets_go = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    path.unlink()
    os.close(lets_go)
    thread.join(60)
    assert in_time == [1]


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes nothing that is open")
def test_the_folder_of_a_process_that_was_ended_from_outside_goes_at_the_next_start(tmp_path):
    """As docker stop and systemd do it. That of one that lives stays, also where it is not seen."""
    code = (
        "import sys, types, time\n"
        f"package = types.ModuleType('pack'); package.__path__ = [{str(ROOT)!r}]; sys.modules['pack'] = package\n"
        "from pack.compilers.compile_cache.workspace import Workspace\n"
        "print(Workspace().folder, flush=True)\n"
        "time.sleep(600)\n"
    )
    folders = []
    for _ in range(2):
        env = {**os.environ, "TMPDIR": str(tmp_path)}
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
        assert process.stdout is not None
        folders.append(Path(process.stdout.readline().strip()))
        if folders[1:]:
            break
        process.terminate()
        process.wait()
    try:
        (folders[1] / "pid").write_text("4194304")  # of nobody: another container's
        code = code.replace("time.sleep(600)", "")
        subprocess.run([sys.executable, "-c", code], check=True, env=env, stdout=subprocess.PIPE)
        assert [folder.exists() for folder in folders] == [False, True]
    finally:
        process.kill()
        process.wait()
