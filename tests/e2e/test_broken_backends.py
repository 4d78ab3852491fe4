"""OneFlows that are broken in every way, on one real server: it stays up, each workflow ends in a picture, and the
record and the routes say what happened."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from examples import bypass, example, run, start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")

#: Stands in for a OneFlow that OneDiff's own backend runs on, and registers that backend.
NEWER = """
import time
from types import SimpleNamespace
import torch
from onediff.infer_compiler.backends import registry

nn = SimpleNamespace(Graph=SimpleNamespace(with_dynamic_input_shape=None))

class Compiled(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module
    def forward(self, *args):
        {before}
        return self.module(*args) * {factor}

registry._BACKENDS["oneflow"] = lambda module, *, options=None: Compiled(module)
"""


def module(code: str):
    def write(folder: Path) -> None:
        (folder / "oneflow").mkdir()
        (folder / "oneflow" / "__init__.py").write_text(code)

    return write


def newer(factor: float = 1.0, before: str = "pass"):
    def write(folder: Path) -> None:
        module(NEWER.format(factor=factor, before=before))(folder)
        for part in ("framework/__init__", "framework/args_tree", "mock_torch/__init__", "mock_torch/mock_importer"):
            file = folder / "oneflow" / f"{part}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text("")

    return write


def broken_library(folder: Path) -> None:
    (folder / "liboneflow.so").write_bytes(b"not a library")
    module(f"import ctypes; ctypes.CDLL({str(folder / 'liboneflow.so')!r})")(folder)


def placeholder(folder: Path) -> None:
    """What pip installs for newer Pythons."""
    if sys.version_info < (3, 11):
        pytest.skip("OneFlow is a placeholder from Python 3.11 on")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), "oneflow==0.7.0"]
    if subprocess.run(pip, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("oneflow 0.7.0 could not be fetched from the package index")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def server(environment, packages):
    flags = ["--use-pytorch-cross-attention"]
    # What is used instead need not compile more than one kind of block.
    variables = {"PYTHONPATH": str(packages), "ONEDIFF_COMPILE_SECONDS": "1"}
    with start(environment, "broken-backends", flags=flags, variables=variables) as running:
        yield running


@pytest.mark.parametrize(
    ("keep_faster", "install", "said"),
    [  # ComfyUI runs a node anew only when an input of it differs from the last time
        (False, placeholder, "the installed oneflow is a placeholder that cannot be imported"),
        (True, module("import ctypes; ctypes.string_at(0)"), "it ended its process while loading oneflow (SIGSEGV)"),
        pytest.param(False, broken_library, "liboneflow.so", marks=pytest.mark.long),
        pytest.param(
            True,
            newer(before="time.sleep(60)"),
            "it hung while compiling and running a small attention and was ended after",
            marks=pytest.mark.long,
        ),
        pytest.param(False, newer(factor=1.01), "it computes wrong numbers here", marks=pytest.mark.long),
    ],
    ids=["placeholder", "crash", "broken library", "hang", "wrong numbers"],
)
def test_the_picture_is_made_and_what_happened_is_said(server, packages, keep_faster, install, said):
    for item in packages.iterdir():
        shutil.rmtree(item) if item.is_dir() else item.unlink()
    install(packages)
    server.post_json("/onediff/clear", {"what": "backends"})
    chosen = {"backend": "oneflow", "scope": "attention", "keep_faster": keep_faster}
    workflow = bypass(example("sd15", server, steps=3, OneDiffCompile=chosen), "OneDiffPatchAttention")
    slowest, over = [0.0], threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            started = time.monotonic()
            server.get_json("/queue")
            slowest[0] = max(slowest[0], time.monotonic() - started)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        result = run(server, workflow)
    finally:
        over.set()
        asking.join()
    assert slowest[0] < 5, "the server stood still"
    assert result.error is None
    assert result.pictures[0].std() > 1
    backend = result.records["OneDiffCompile"]["backend"]
    assert (backend["requested"], backend["used"]) == ("oneflow", "inductor"), backend
    assert backend["reason"].startswith("oneflow is not available: ")
    assert said in backend["reason"]
    row = next(r for r in server.get_json("/onediff/backends", timeout=120)["backends"] if r["name"] == "oneflow")
    assert not row["available"]
    assert said in row["reason"]
    remedies = ("inductor", "requirements-oneflow.txt", "pip install")
    assert any(remedy in row["reason"] for remedy in remedies), row["reason"]
