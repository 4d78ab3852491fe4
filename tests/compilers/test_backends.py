"""Proof in a child process: whatever a native backend does there, this process lives and says what happened. What is
only said, and ends no process, is tried in this one: a child takes five seconds to import what it needs."""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from onediff_pack.compilers import BACKENDS
from onediff_pack.compilers.backends.oneflow import libraries
from onediff_pack.compilers.blocks.shared_graph import SharedGraph
from onediff_pack.compilers.choice import child as proof_process
from onediff_pack.compilers.choice import prove
from onediff_pack.compilers.choice.choose import backend_rows, choose_backend
from onediff_pack.compilers.choice.trial import try_out
from onediff_pack.proving import child
from onediff_pack.proving import kept_proofs as proof_store
from onediff_pack.proving.proof import Proof
from sessions import known

CPU = torch.device("cpu")

COMPILE = """
import torch

class Compiled(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args):
        return {result}

def nexfort_compile(module, **options):
    {before}
    return Compiled(module)
"""


def nexfort(result: str = "self.module(*args)", before: str = "pass") -> str:
    return COMPILE.format(result=result, before=before)


def test_the_placeholder_package_is_recognised(installed, monkeypatch):
    installed(
        "oneflow", 'raise RuntimeError("This package is a placeholder. Please install following the instructions")'
    )
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    proof = try_out(BACKENDS["oneflow"], CPU)
    assert not proof.available
    assert proof.reason == (
        "the installed oneflow is a placeholder that cannot be imported. OneFlow 0.9.0, the last release on PyPI,"
        " exists for Python 3.7 to 3.10 on Linux, and this is Python 3.11; use inductor."
    )


def test_a_missing_library_is_named_with_what_brings_it(installed, monkeypatch):
    monkeypatch.setattr(libraries, "LIBRARIES", {"nvidia-cudnn-cu11": ("cudnn/lib/libcudnn_not_there.so.8",)})
    installed("oneflow", 'raise ImportError("libcudnn_not_there.so.8: cannot open shared object file")')
    with pytest.raises(libraries.BackendUnavailable) as caught:
        libraries.load_oneflow()
    assert "libcudnn_not_there.so.8: cannot open shared object file" in caught.value.reason
    assert "pip install nvidia-cudnn-cu11" in caught.value.reason


def test_a_library_that_cannot_be_loaded_is_named(installed, tmp_path):
    (tmp_path / "libbroken.so").write_bytes(b"not a library")
    installed("oneflow", f"import ctypes; ctypes.CDLL({str(tmp_path / 'libbroken.so')!r})")
    proof = try_out(BACKENDS["oneflow"], CPU)
    assert not proof.available
    assert "libbroken.so" in proof.reason


def test_a_backend_that_hangs_while_it_is_loaded_is_ended(installed):
    installed("oneflow", "import time; time.sleep(60)")
    started = time.monotonic()
    proof = proof_process.prove_in_child("oneflow", CPU, starting=6)
    assert time.monotonic() - started < 20
    assert not proof.available
    assert "it hung while" in proof.reason
    assert "was ended after 6 s" in proof.reason


def test_a_backend_that_hangs_while_it_compiles_is_ended_soon(installed, monkeypatch):
    monkeypatch.setattr(child, "_busy", lambda: 1.0)
    installed("nexfort", "", nexfort(before="import time; time.sleep(60)"))
    proof = proof_process.prove_in_child("nexfort", CPU)
    assert proof.reason.startswith("it hung while compiling and running a small attention and was ended after 7 s")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_backend_that_crashes_gives_way_to_inductor_and_says_why(installed):
    installed("oneflow", "import ctypes; ctypes.string_at(0)")
    proofs = known(inductor=Proof(True, "stands in.", 0.0))
    why = "it ended its process while loading oneflow (SIGSEGV): reinstall it or use inductor."
    backend, reason = choose_backend("oneflow", CPU, proofs)
    assert backend.name == "inductor"
    assert reason.startswith(f"oneflow is not available: {why}")
    row = next(row for row in backend_rows(CPU, proofs) if row["name"] == "oneflow")
    assert (row["available"], row["reason"]) == (False, why)


def test_a_crash_while_compiling_is_told_from_one_while_loading(installed):
    installed("nexfort", "", nexfort(before="import os; os._exit(3)"))
    proof = proof_process.prove_in_child("nexfort", CPU)
    assert not proof.available
    assert proof.reason.startswith("it ended its process while compiling and running a small attention (exit code 3)")


def test_wrong_numbers_are_found(installed):
    installed("nexfort", "", nexfort(result="self.module(*args) * 1.01"))
    proof = try_out(BACKENDS["nexfort"], CPU)
    assert not proof.available
    assert proof.reason == "it computes wrong numbers here (1.0e-02 relative difference): use inductor."


def test_a_missing_module_is_named(installed):
    installed("nexfort", "", nexfort(before="import nexfort.inductor.codegen"))
    proof = try_out(BACKENDS["nexfort"], CPU)
    assert proof.reason == (
        "nexfort's installation lacks a part, the module nexfort.inductor: reinstall nexfort or use inductor."
    )


@pytest.mark.serial
def test_a_nexfort_that_works_is_proven_through_onediff(installed):
    installed("nexfort", "", nexfort())
    proof = proof_process.prove_in_child("nexfort", CPU)
    assert proof.available, proof.reason
    assert proof.seconds < 2, "imports are not what a compiler's trial is timed for"
    assert proof.startup_seconds > 0


def test_a_backend_that_hangs_does_not_hold_up_the_others(installed, monkeypatch):
    installed("oneflow", "")
    reached, go_on = threading.Event(), threading.Event()

    def hang(*_args):
        reached.set()
        go_on.wait(30)
        return Proof(False, "hung.")

    proofs = known()
    monkeypatch.setattr(prove, "prove_in_child", hang)
    monkeypatch.setattr(prove, "try_out", lambda backend, device, cancel: Proof(True, "stands in.", 0.0))
    thread = threading.Thread(target=proofs.prove, args=(BACKENDS["oneflow"], CPU))
    thread.start()
    try:
        assert reached.wait(10)
        assert proofs.prove(BACKENDS["inductor"], CPU).available
    finally:
        go_on.set()
        thread.join()


# What is kept on disk.


@pytest.fixture
def store(tmp_path):
    return proof_store.ProofStore(tmp_path / "kept")


def test_a_proof_is_kept_and_found_quickly(store):
    proof = Proof(True, "compiled and ran a small attention in 1.5 s.", 1.5, startup_seconds=8.0)
    store.put("a", proof)
    started = time.perf_counter()
    key = proof_store.proof_key("oneflow", ("oneflow",), "CPU", Path(__file__).parent)
    assert proof_store.ProofStore(store.folder).get("a") == proof
    assert time.perf_counter() - started < 0.05
    assert store.get(key) is None
    assert [file.name for file in store.folder.iterdir()] == ["proofs.json"]


def test_a_failure_is_tried_again_after_a_while(store, monkeypatch):
    store.put("a", Proof(False, "it hung."))
    assert store.get("a").reason == "it hung."
    later = time.time() + proof_store.FAILURES_LAST + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert store.get("a") is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"a": 1}', '{"a": {"available": "yes", "reason": "x"}}', '{"a": {"available": true}}', "\x00\xff"],
)
def test_a_damaged_file_is_no_proof_and_is_replaced(store, content):
    store.folder.mkdir()
    (store.folder / "proofs.json").write_bytes(content.encode("latin-1"))
    assert store.get("a") is None
    store.put("a", Proof(True, "works.", 1.0))
    assert store.get("a").available
    json.loads((store.folder / "proofs.json").read_text())


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(tmp_path):
    (tmp_path / "file").write_text("")
    store = proof_store.ProofStore(tmp_path / "file" / "folder")
    store.put("a", Proof(True, "works.", 1.0))
    assert store.get("a") is None


def test_versions_are_part_of_the_key(monkeypatch):
    before = proof_store.proof_key("oneflow", ("oneflow",), "CPU", Path(__file__).parent)
    monkeypatch.setattr(proof_store, "package_version", lambda name: "99")
    assert proof_store.proof_key("oneflow", ("oneflow",), "CPU", Path(__file__).parent) != before


def test_max_speed_tunes_on_gpus_and_says_what_it_did():
    from onediff_pack.compilers.backends.inductor.effort import effort_note, inductor_config

    assert inductor_config("max speed", "cuda") == {"max_autotune": True, "coordinate_descent_tuning": True}
    assert "timed" in effort_note("max speed", "cuda")
    assert "as with fast start" in effort_note("max speed", "cpu")
    assert inductor_config("max speed", "cpu") == inductor_config("fast start", "cpu")
    assert inductor_config("fast start", "cuda") == {}
    for device in ("cpu", "cuda"):
        assert effort_note("fast start", device) is None


def test_settings_of_every_effort_are_known_to_this_pytorch():
    from onediff_pack.compilers.backends.inductor.effort import ALWAYS, MAX_SPEED, WORDS
    from torch._inductor import config

    for settings in (*ALWAYS.values(), *MAX_SPEED.values()):
        assert all(hasattr(config, name) for name in settings)
    assert {name for settings in MAX_SPEED.values() for name in settings} <= WORDS.keys()


@pytest.mark.serial
def test_compiled_convolutions_on_a_cpu_do_not_reorder_their_weights_at_each_call():
    """With Inductor's own settings this one runs half as fast as uncompiled."""
    block = torch.nn.Sequential(
        torch.nn.GroupNorm(32, 1280), torch.nn.SiLU(), torch.nn.Conv2d(1280, 1280, 3, padding=1)
    )
    block.requires_grad_(False)
    compiled = BACKENDS["inductor"].compile(block, SharedGraph(type(block).forward, "Block"), "fast start")
    x = torch.randn(2, 1280, 4, 4)
    ratios = []
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), block(x), rtol=1e-3, atol=1e-4)
        for _ in range(9):
            milliseconds = []
            for call in (block, compiled):
                start = time.perf_counter()
                call(x)
                milliseconds.append(time.perf_counter() - start)
            ratios.append(milliseconds[0] / milliseconds[1])
    assert statistics.median(ratios) > 0.75, ratios
