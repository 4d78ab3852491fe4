"""Why nexfort cannot work here, in plain words, shown with package trees that say so."""

from __future__ import annotations

import sys

import pytest
import torch
from onediff_pack.compilers.backends.nexfort import NexfortBackend, wanted_torch
from onediff_pack.compilers.choice import child as proof_process
from onediff_pack.status.machine import package_version

CPU = torch.device("cpu")


@pytest.fixture
def tree(installed, tmp_path, monkeypatch):
    """A nexfort as pip installs it: a package, and what pip noted about it."""

    def install(requires: str, code: str = "") -> None:
        installed("nexfort", code)
        noted = tmp_path / "nexfort-0.1.dev330.dist-info"
        noted.mkdir()
        lines = ("Metadata-Version: 2.1", "Name: nexfort", "Version: 0.1.dev330", f"Requires-Dist: {requires}")
        (noted / "METADATA").write_text("\n".join(lines) + "\n")
        package_version.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    yield install
    package_version.cache_clear()
    sys.modules.pop("nexfort", None)


@pytest.mark.parametrize(
    ("requirements", "torch_version"),
    [
        (["torch==2.4.0"], "==2.4.0"),
        (["numpy", "torch (==2.4.0+cu121)"], "==2.4.0+cu121"),
        (["torch <=2.5.1,>=2.3.0"], "<=2.5.1,>=2.3.0"),
        (["torch==1.0; extra == 'dev'", "torch"], None),
        (["not a requirement"], None),
        (["torchvision==0.19.0"], None),
        ([], None),
    ],
)
def test_the_torch_that_it_requires(requirements, torch_version):
    wanted = wanted_torch(requirements)
    assert (str(wanted) if wanted is not None else None) == torch_version


def test_another_torch_than_it_requires_is_said(tree):
    tree("torch <=2.0,>=1.13")
    reason = NexfortBackend().absent(torch.device("cpu"))
    assert (
        reason == f"nexfort 0.1.dev330 needs torch <=2.0,>=1.13, and this is torch {torch.__version__}: use inductor."
    )


def test_the_torch_that_it_was_built_for_is_said(tree):
    """Its requirements allow more than its libraries do, and it says so only when it is imported."""
    said = "The torch version(torch==2.4.0+cu121) of nexfort's compilation environment conflicts with the current one!"
    tree("torch>=1.13", f'raise Exception("{said}")')
    assert NexfortBackend().absent(torch.device("cpu")) is None
    proof = proof_process.prove_in_child("nexfort", CPU)
    assert (
        proof.reason == f"nexfort was built for torch 2.4.0+cu121, and this is torch {torch.__version__}: use inductor."
    )


def test_a_module_that_it_needs_and_that_is_missing_is_said(tree):
    tree("torch>=1.13", "import setuptools_that_is_not_there")
    proof = proof_process.prove_in_child("nexfort", CPU)
    assert proof.reason == (
        "nexfort's installation lacks a part, the module setuptools_that_is_not_there: reinstall nexfort or use "
        "inductor."
    )


def test_a_missing_gpu_is_said(tree, monkeypatch):
    tree("torch>=1.13")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (
        NexfortBackend().absent(torch.device("cpu"))
        == "nexfort needs an NVIDIA GPU, and torch sees none here: use inductor."
    )
