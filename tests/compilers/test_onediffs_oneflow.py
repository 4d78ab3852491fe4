"""OneDiff's own OneFlow backend is used where the installed OneFlow has what it needs. PyPI's has not: a package that
says that it has stands in."""

from __future__ import annotations

import sys

import pytest
import torch
from onediff.infer_compiler.backends import registry
from onediff_pack.compilers import BACKENDS
from onediff_pack.compilers.backends.oneflow import libraries
from onediff_pack.compilers.blocks.shared_graph import SharedGraph
from onediff_pack.compilers.choice import child as proof_process

PARTS = ("framework/__init__.py", "framework/args_tree.py", "mock_torch/__init__.py", "mock_torch/mock_importer.py")


@pytest.fixture
def newer(installed, tmp_path, monkeypatch):
    """Installs a OneFlow with the parts; importing it registers a backend, as OneDiff's own would do itself."""

    def install(without: str = "") -> None:
        installed("oneflow", FAKE.replace("with_dynamic_input_shape", "other") if without == "Graph" else FAKE)
        for part in PARTS:
            file = tmp_path / "oneflow" / part
            file.parent.mkdir(exist_ok=True)
            if part != without:
                file.write_text("")

    monkeypatch.setattr(registry, "_BACKENDS", {n: b for n, b in registry._BACKENDS.items() if n != "oneflow"})
    yield install
    for name in [name for name in sys.modules if name.partition(".")[0] == "oneflow"]:
        del sys.modules[name]


FAKE = """
from types import SimpleNamespace

import torch
from onediff.infer_compiler.backends import registry

class Graph:
    with_dynamic_input_shape = None

nn = SimpleNamespace(Graph=Graph)
compiled = []

def compile_module(module, *, options=None):
    compiled.append(module)
    return torch.nn.Sequential(module)

registry._BACKENDS["oneflow"] = compile_module
"""


def test_it_is_used_and_proven(newer):
    newer()
    module, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    compiled = BACKENDS["oneflow"].compile(module, SharedGraph(torch.nn.Linear.forward, "Linear"), "fast start")
    assert torch.equal(compiled(x), module(x))
    assert len(sys.modules["oneflow"].compiled) == 1
    proof = proof_process.prove_in_child("oneflow", torch.device("cpu"))
    assert proof.available, proof.reason


@pytest.mark.parametrize("without", ["framework/args_tree.py", "mock_torch/mock_importer.py", "Graph", ""])
def test_each_part_counts(newer, without):
    newer(without)
    libraries.load_oneflow()
    assert libraries.has_onediffs_needs() == (without == "")


def test_a_module_where_a_package_is_needed_is_no_error(newer, tmp_path):
    newer("mock_torch/mock_importer.py")
    (tmp_path / "oneflow" / "mock_torch" / "__init__.py").unlink()
    (tmp_path / "oneflow" / "mock_torch").rmdir()
    (tmp_path / "oneflow" / "mock_torch.py").write_text("")
    libraries.load_oneflow()
    assert not libraries.has_onediffs_needs()
