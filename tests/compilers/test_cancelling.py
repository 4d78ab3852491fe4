"""Cancel while a C++ compiler runs: it is ended, and the next run compiles as if nothing had been."""

from __future__ import annotations

import functools
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from onediff_pack.compilers.backends.inductor.backend import InductorBackend
from onediff_pack.compilers.backends.protocol import Cancelled
from onediff_pack.compilers.blocks.shared_graph import SharedGraph
from onediff_pack.compilers.choice.prove import Proofs
from onediff_pack.compilers.session.compiler import Compiler
from onediff_pack.compilers.session.settings import Settings
from onediff_pack.patching.ending.stopping import Stopped
from onediff_pack.patching.user_code import Cancel
from torch import nn

#: A compiler that takes a minute, and says so, until ``quick`` is there.
SLOW = """#!{python}
import os, pathlib, sys, time
if "-o" in sys.argv and not pathlib.Path({quick!r}).exists():
    pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_text("half a file")
    pathlib.Path({said!r}).write_text("runs")
    time.sleep(60)
os.execvp("g++", ["g++", *sys.argv[1:]])
"""


class Doubles(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin() * 2 + x


class OlderHosts(Exception):
    """ComfyUI's interruption was an Exception up to 0.18.2."""


class NewerHosts(BaseException):
    """A BaseException since."""


@pytest.mark.parametrize("error", [OlderHosts, NewerHosts])
def test_the_compiler_is_ended_within_a_second_and_the_next_run_compiles(error, tmp_path, monkeypatch):
    import torch._inductor.compile_fx as inductor
    import torch._inductor.config as config

    began = []
    compile_fx = inductor.compile_fx

    def counted(*args: Any, **settings: Any) -> Any:
        if settings.get("config_patches"):  # it calls itself without them
            began.append(settings["config_patches"])
        return compile_fx(*args, **settings)

    monkeypatch.setattr(inductor, "compile_fx", counted)

    said, quick, compiler = tmp_path / "said", tmp_path / "quick", tmp_path / "compiler.py"
    compiler.write_text(SLOW.format(python=sys.executable, said=str(said), quick=str(quick)))
    compiler.chmod(0o755)
    pressed: list[float] = []

    def check() -> None:
        """Tells of Cancel once, as ComfyUI does."""
        if said.exists() and not pressed:
            pressed.append(time.monotonic())
            raise error

    module, backend, x = Doubles().eval(), InductorBackend(), torch.randn(64, 64)
    backend.start_up(x.device)  # tries out the compiler several times
    graph = SharedGraph(Doubles.forward, f"Doubles {error.__name__}", cancel=Cancel(check, error))
    run = backend.compile(module, graph, "fast start")
    with torch.inference_mode(), config.patch({"cpp.cxx": (str(compiler),), "cpp_cache_precompile_headers": False}):
        with pytest.raises(Cancelled) as raised:
            run(x)
        assert time.monotonic() - pressed[0] < 1
        assert isinstance(raised.value.error, error)
        assert len(began) == 1, "it is not compiled in another way then"
        said.unlink()
        quick.touch()
        torch.testing.assert_close(run(x), module(x))
    assert graph.graphs == 1


def test_cancel_ends_the_compiler_while_a_backend_is_proven_and_the_proof_is_made_anew(tmp_path):
    import torch._inductor.config as config

    said, quick, compiler = tmp_path / "said", tmp_path / "quick", tmp_path / "compiler.py"
    compiler.write_text(SLOW.format(python=sys.executable, said=str(said), quick=str(quick)))
    compiler.chmod(0o755)
    pressed: list[float] = []

    def check() -> None:  # tells it once, as ComfyUI does
        if said.exists() and not pressed:
            pressed.append(time.monotonic())
            raise NewerHosts

    cpu, backend = torch.device("cpu"), InductorBackend()
    backend.start_up(cpu)
    proofs, cancel = Proofs({"inductor": backend}), Cancel(check, NewerHosts)
    compiler_of_session = Compiler(Settings(backend="inductor"), cpu, proofs, cancel=cancel)
    with config.patch({"cpp.cxx": (str(compiler),), "cpp_cache_precompile_headers": False}):
        with pytest.raises(NewerHosts):
            compiler_of_session.choose_backend()
        assert time.monotonic() - pressed[0] < 1
        quick.touch()
        assert "compiled and ran" in compiler_of_session.choose_backend()


def test_cancel_reaches_who_waits_while_a_backend_is_imported():
    proofs = Proofs({})
    with proofs._importing, pytest.raises(NewerHosts):
        proofs.wait_for_imports(lambda: (_ for _ in ()).throw(NewerHosts))


@pytest.mark.usefixtures("host")
def test_tracing_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo unrolls a loop, also one that has no end in a graph."""
    import models
    from comfy.ldm.flux.layers import DoubleStreamBlock
    from onediff_pack.proving.proof import Proof
    from sessions import compiled_clone, known, using

    going, forward = threading.Event(), DoubleStreamBlock.forward

    @functools.wraps(forward)
    def endless(self: Any, *args: Any, **kwargs: Any) -> Any:
        while torch.compiler.is_compiling():
            self = self.train(False)
        return forward(self, *args, **kwargs)

    def check() -> None:
        if going.is_set():
            raise Stopped

    monkeypatch.setattr(DoubleStreamBlock, "forward", endless)
    with using(known(inductor=Proof(True, "works.", 0.0))):
        patcher = models.flux_patcher()
        clone, _session, _record = compiled_clone(patcher, check)
        models.step(clone)
        threading.Timer(3, going.set).start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            models.step(clone)
    assert time.monotonic() - began < 12


def test_only_processes_on_our_files_are_ended(tmp_path: Path) -> None:
    import subprocess

    from onediff_pack.compilers.backends.inductor.cancelling import end_processes

    sleeps: Any = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours = subprocess.Popen([*sleeps, str(tmp_path / "ours" / "a.cpp")])
    others = subprocess.Popen([*sleeps, str(tmp_path / "others" / "a.cpp")])
    try:
        time.sleep(0.5)
        end_processes(tmp_path / "ours")
        assert ours.wait(5) != 0
        assert others.poll() is None
    finally:
        for process in (ours, others):
            process.kill()
            process.wait()
