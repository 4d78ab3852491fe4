"""Kernels of packages are tried in a child process before they are candidates: whatever a package does there, this
process lives and says what happened. Stand-ins for a package that runs on a GPU alone."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from onediff_pack.processors.kernels.proofs import KernelProofs
from onediff_pack.proving import child
from onediff_pack.proving.kept_proofs import ProofStore

CPU = torch.device("cpu")

RIGHT = "torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=sm_scale)"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a sageattention whose function does this."""

    def install(body: str) -> None:
        folder = tmp_path / "packages" / "sageattention"
        folder.mkdir(parents=True)
        lines = ["import os, time, torch", "def sageattn(q, k, v, tensor_layout, is_causal, sm_scale):"]
        (folder / "__init__.py").write_text("\n".join([*lines, *(f"    {line}" for line in body.split("; "))]))
        monkeypatch.setenv("PYTHONPATH", str(folder.parent))
        monkeypatch.syspath_prepend(str(folder.parent))
        importlib.invalidate_caches()

    return install


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f"return {RIGHT}", None),
        (f"return {RIGHT} * float('nan')", "it computes wrong numbers here (nan relative difference)."),
        (f"return {RIGHT} * 1.2", "it computes wrong numbers here (2.0e-01 relative difference)."),
        ("raise RuntimeError('no kernel image')", "it raises RuntimeError: no kernel image"),
        (f"k.sub_(1); return {RIGHT}", None),  # it is handed a copy of k
        (f"q.zero_(); return {RIGHT}", "it writes into its inputs."),
        ("os._exit(3)", "it ended its process while computing a small attention (exit code 3): reinstall its package."),
    ],
)
def test_a_kernel_is_proven_by_what_it_computes(package: Callable[[str], None], body: str, said: str | None) -> None:
    package(body)
    proof = KernelProofs().prove("sage", CPU)
    assert proof.available == (said is None), proof.reason
    assert proof.reason.startswith(said or "computed a small attention (")


def test_a_kernel_that_hangs_is_ended(package: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    package("time.sleep(60)")
    monkeypatch.setattr(child, "_busy", lambda: 0.3)
    started = time.monotonic()
    proof = KernelProofs().prove("sage", CPU)
    assert proof.reason == "it hung while computing a small attention and was ended after 2 s: reinstall its package."
    assert time.monotonic() - started < 40


def test_what_was_proven_is_kept_and_asked_for_without_waiting(
    package: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(f"return {RIGHT}")
    proofs = KernelProofs(ProofStore(tmp_path))
    assert proofs.known("sage", CPU) is None
    work = proofs.prove_ahead(["sdpa", "sage"], CPU)
    assert work is not None and proofs.known("sdpa", CPU).available  # type: ignore[union-attr]
    work.join()
    monkeypatch.setattr("onediff_pack.processors.kernels.proofs.prove_in_child", None)
    later = KernelProofs(ProofStore(tmp_path))
    assert later.known("sage", CPU) == proofs.known("sage", CPU) != None  # noqa: E711
    assert later.prove_ahead(["sage"], CPU) is None


def test_what_is_not_installed_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onediff_pack.processors.kernels.proofs.prove_in_child", None)
    proof = KernelProofs().prove("sage", CPU)
    assert proof.reason.startswith("the package sageattention is not installed: run “pip install sageattention”")


def test_what_hung_is_no_candidate_and_neither_is_what_is_not_proven_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    from onediff_pack.processors import get_processor
    from onediff_pack.processors.choosing.candidates import candidates, to_prove
    from onediff_pack.processors.contract import Limits
    from onediff_pack.proving.proof import Proof

    kernel = type(get_processor("flash"))
    monkeypatch.setattr(kernel, "limits", Limits())
    monkeypatch.setattr(kernel, "absent", classmethod(lambda cls: None))
    assert to_prove(CPU, torch.float32, "exact") == ["flash"]
    proofs = KernelProofs()

    def reason() -> str | None:
        return next(one.reason for one in candidates(CPU, torch.float32, "exact", proofs=proofs) if one.name == "flash")

    assert str(reason()).startswith("it is being tried in a process of its own")
    monkeypatch.setattr(
        "onediff_pack.processors.kernels.proofs.prove_in_child",
        lambda trial: Proof(False, "it hung while computing a small attention and was ended after 7 s: reinstall it."),
    )
    proofs.prove("flash", CPU)
    assert str(reason()).startswith("it hung while computing a small attention")
    proofs.forget_failures()
    monkeypatch.setattr("onediff_pack.processors.kernels.proofs.prove_in_child", lambda trial: Proof(True, "works."))
    proofs.prove("flash", CPU)
    assert reason() is None


def test_a_kernel_that_had_no_memory_is_proven_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from onediff_pack.processors import get_processor
    from onediff_pack.processors.contract import Limits
    from onediff_pack.processors.kernels import proofs

    kernel, full = type(get_processor("flash")), True

    def attend(self, q, k, v, mask, scale):
        if full:
            raise torch.OutOfMemoryError("another model is there")
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)

    monkeypatch.setattr(kernel, "limits", Limits())
    monkeypatch.setattr(kernel, "absent", classmethod(lambda cls: None))
    monkeypatch.setattr(kernel, "attend", attend)
    monkeypatch.setattr(proofs, "prove_in_child", lambda trial: proofs.prove(lambda **said: None, "flash", "cpu"))
    known = KernelProofs(ProofStore(tmp_path))
    assert known.prove("flash", CPU).reason == "it raises OutOfMemoryError: another model is there"
    full = False
    assert known.prove("flash", CPU).available
