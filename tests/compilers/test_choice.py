"""Which backend is taken and why; when and where it is proven, and how long an answer takes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from onediff_pack.compilers import BACKENDS
from onediff_pack.compilers.backends.protocol import BackendUnavailable
from onediff_pack.compilers.choice import prove, trial
from onediff_pack.compilers.choice.choose import backend_rows, choose_backend
from onediff_pack.compilers.choice.prove import Proofs
from onediff_pack.proving.kept_proofs import ProofStore
from onediff_pack.proving.proof import Proof
from passthrough import without_inductor
from sessions import FakeBackend, known

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


def choose(requested: str, **proofs: Proof):
    return choose_backend(requested, CPU, known(**proofs))


def test_auto_takes_the_first_that_works_and_is_not_slower():
    works, slow = Proof(True, "works.", 1.0, speed=1.02), Proof(True, "works, 9 times slower.", 1.0, speed=0.11)
    missing = Proof(False, "nothing is there: install it.")
    backend, reason = choose("auto", inductor=works, oneflow=works, nexfort=works)
    assert (backend.name, reason) == ("inductor", "The first that works here and is not slower: it works.")
    assert choose("auto", inductor=missing, oneflow=slow, nexfort=works)[0].name == "nexfort"
    with pytest.raises(BackendUnavailable, match="nothing is there: install it"):
        choose("auto", inductor=missing, oneflow=slow, nexfort=missing)
    backend, reason = choose("oneflow", inductor=works, oneflow=slow, nexfort=missing)
    assert (backend.name, reason) == ("oneflow", "Asked for. It works, 9 times slower.")


def test_inductor_is_used_where_it_was_slow_in_the_proof():
    """A machine that was busy then must not leave its user uncompiled: whole steps are timed anyway."""
    slow = Proof(True, "compiled and ran a small attention in 7.6 s, 3 times slower than uncompiled.", 7.6, speed=0.3)
    missing, works = Proof(False, "nothing is there: install it."), Proof(True, "works.", 1.0, speed=1.02)
    backend, reason = choose("auto", inductor=slow, oneflow=slow, nexfort=missing)
    assert (backend.name, reason) == ("inductor", f"No working backend was fast in its trial; this one {slow.reason}")
    backend, reason = choose("nexfort", inductor=slow, oneflow=slow, nexfort=missing)
    assert backend.name == "inductor"
    assert reason.startswith(
        "nexfort is not available: nothing is there: install it. No working backend was fast in its trial; this one"
    )
    assert choose("auto", inductor=slow, oneflow=works, nexfort=missing)[0].name == "oneflow"


class Slow(FakeBackend):
    """A backend whose compiled code sleeps."""

    name = "slow"

    def start_up(self, device):
        time.sleep(0.3)

    def compile(self, block, graph, effort):
        def run(x):
            time.sleep(0.05)
            return block(x)

        return run


def test_a_proof_times_both_ways_and_tells_the_start_up_apart():
    proof = trial.try_out(Slow(), CPU)
    assert proof.available
    assert proof.slower
    assert "times slower than uncompiled" in proof.reason
    assert proof.startup_seconds >= 0.3
    assert proof.seconds <= 5


def test_a_proof_on_a_busy_machine_goes_on_timing(monkeypatch):
    class Busy(Slow):
        runs = 0

        def compile(self, block, graph, effort):
            def run(x):
                self.runs += 1
                time.sleep(0.02 if self.runs < 20 else 0)
                return block(x)

            return run

    monkeypatch.setattr(trial, "_SECONDS", 60.0)
    proof = trial.try_out(Busy(), CPU)
    assert not proof.slower
    assert "slower" not in proof.reason


def test_no_backend_is_proven_on_the_event_loop():
    async def ask():
        known().prove(BACKENDS["inductor"], CPU)

    with pytest.raises(RuntimeError, match="the server would answer nobody"):
        asyncio.run(ask())


def test_importing_the_compilers_loads_no_backend(tmp_path):
    code = (
        f"import sys, types; pack = types.ModuleType('pack'); pack.__path__ = [{str(ROOT)!r}]; "
        "sys.modules['pack'] = pack; import pack.compilers; "
        "print(*{'onediff', 'oneflow', 'nexfort', 'torch._inductor.compile_fx'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert said.stdout.strip() == ""


def test_what_is_started_ahead_is_waited_for_and_proven_in_the_thread_that_asks(monkeypatch):
    proofs, done = known(), []

    def start_up(device):
        time.sleep(0.2)
        done.append(("started", threading.current_thread().name))

    def try_out(backend, device, cancel):
        done.append(("proven", threading.current_thread().name))
        return Proof(True, "works.", 0.2)

    monkeypatch.setattr(BACKENDS["inductor"], "start_up", start_up)
    monkeypatch.setattr(prove, "try_out", try_out)
    assert proofs.start_ahead("inductor", CPU) is not threading.current_thread()
    assert proofs.start_ahead("inductor", CPU) is None
    assert choose_backend("inductor", CPU, proofs)[0].name == "inductor"
    assert done == [("started", "OneDiff start-up"), ("proven", threading.current_thread().name)]
    assert proofs.start_ahead("inductor", CPU) is None


def test_a_model_is_traced_after_the_thread_that_started_inductor_ended(tmp_path):
    """In a process of its own: torch 2.11 built for CUDA crashes on a machine without a GPU if that thread traced."""
    code = (
        f"import sys, types; pack = types.ModuleType('pack'); pack.__path__ = [{str(ROOT)!r}]; "
        "sys.modules['pack'] = pack; import torch, threading; from pack.compilers import BACKENDS, PROOFS; "
        "cpu = torch.device('cpu'); PROOFS.start_ahead('inductor', cpu).join(); "
        "threads = [threading.Thread(target=bytearray, args=(4096,)) for _ in range(50)]; "
        "[(thread.start(), thread.join()) for thread in threads]; "
        "print('traced', torch.compile(torch.nn.Linear(4, 4), backend='aot_eager')(torch.zeros(2, 4)).shape)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "traced torch.Size([2, 4])" in said.stdout, said.stderr[-1000:]


def test_the_list_for_the_sidebar_traces_in_a_child_process(monkeypatch, tmp_path):
    """Its answer stands in here; in tests/e2e/test_workflows.py the server asks a real child."""
    proofs = Proofs(BACKENDS, ProofStore(tmp_path))
    monkeypatch.setattr(prove, "try_out", lambda *_args: pytest.fail("traced beside a sampling"))
    monkeypatch.setattr(
        prove, "prove_in_child", lambda name, *_args, **_limits: Proof(name == "inductor", "said by a child.", 1.0)
    )
    row = next(row for row in backend_rows(CPU, proofs) if row["name"] == "inductor")
    assert (row["available"], row["reason"]) == (True, "said by a child.")
    assert proofs.prove(BACKENDS["inductor"], CPU).available, "known from now on"


def test_a_child_that_cannot_be_started_is_a_sentence(monkeypatch):
    def prove_in_child(*_args, **_settings):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/home/somebody/ComfyUI']")

    monkeypatch.setattr(prove, "prove_in_child", prove_in_child)
    monkeypatch.setattr(BACKENDS["oneflow"], "absent", lambda device: None, raising=False)
    proof = known().prove(BACKENDS["oneflow"], CPU)
    assert not proof.available
    assert "cannot be started (No such file or directory)" in proof.reason
    assert "TMPDIR" in proof.reason
    assert "somebody" not in proof.reason, "records and pictures carry it"


def test_a_proof_draws_no_random_numbers():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with without_inductor():
        assert trial.try_out(BACKENDS["inductor"], CPU).available
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.serial
def test_what_is_kept_on_disk_answers_within_fifty_milliseconds(tmp_path, installed):
    installed("oneflow", "raise RuntimeError('must not be imported')")
    store, backend = ProofStore(tmp_path / "kept"), BACKENDS["oneflow"]
    backend.absent(torch.device("cpu"))  # imports onediff, once per process
    key = prove.key_of(backend, CPU)
    store.put(key, Proof(True, "works.", 1.0))
    seconds = []
    for _ in range(5):  # the best of a few: the machine may be busy
        proofs = Proofs(BACKENDS, store)
        started = time.perf_counter()
        assert proofs.prove(backend, CPU).reason == "works."
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.05


def test_failures_are_forgotten_when_asked_and_successes_are_not(tmp_path):
    store = ProofStore(tmp_path)
    store.put("good", Proof(True, "works.", 1.0))
    store.put("bad", Proof(False, "it hung."))
    store.put("slow", Proof(True, "works, 9 times slower.", 1.0, speed=0.11))
    absent: list[Any] = [FakeBackend(), FakeBackend(), FakeBackend()]
    for backend, name in zip(absent, ("hung", "slow", "fine"), strict=True):
        backend.name = name
        backend.absent = lambda device: "it is tried again."
    backends = {backend.name: backend for backend in absent}
    proofs = Proofs(
        backends,
        store,
        {
            ("hung", "cpu"): Proof(False, "it hung."),
            ("slow", "cpu"): Proof(True, "works, 9 times slower.", 1.0, speed=0.11),
            ("fine", "cpu"): Proof(True, "works."),
        },
    )
    proofs.forget_failures()
    assert {name for name in backends if proofs.prove(backends[name], CPU).reason == "works."} == {"fine"}
    assert store.get("good").available
    assert store.get("bad") is store.get("slow") is None
