"""A missing compiler, missing headers, missing Triton and a full folder are said before anything is compiled."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections import namedtuple

import pytest
import torch
from onediff_pack.compilers import BACKENDS
from onediff_pack.compilers.backends.inductor import tools
from onediff_pack.compilers.backends.inductor.tools import missing_tools

SYSTEMS = ("Linux", "Windows", "Darwin")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(params=SYSTEMS)
def system(request, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: request.param)
    return request.param


@pytest.fixture
def complete(monkeypatch, tmp_path):
    """A machine with everything."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(tools, "_runs", lambda name, windows: True)
    monkeypatch.setattr(tools, "_include_folders", lambda: {str(tmp_path)})
    monkeypatch.setattr(tools, "package_version", lambda name: "3.6.0")
    return tmp_path


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_is_missing_where_everything_is_there(system, complete, device):
    assert missing_tools(device) is None


def test_this_machine_has_what_the_other_tests_compile_with():
    assert missing_tools("cpu") is None


def test_a_missing_compiler_comes_with_what_installs_it(system, complete, monkeypatch):
    monkeypatch.setattr(tools, "_runs", lambda name, windows: False)
    command = {"Linux": "apt install g++", "Windows": "Visual Studio Build Tools", "Darwin": "xcode-select --install"}
    assert command[system] in missing_tools("cpu")


def test_missing_headers_come_with_what_installs_them(system, complete):
    (complete / "Python.h").unlink()
    command = {"Linux": "-dev”", "Windows": "“include” and “libs”", "Darwin": "brew install python@"}
    assert command[system] in missing_tools("cpu")


def test_a_missing_triton_comes_with_its_package_on_gpus_only(system, complete, monkeypatch):
    monkeypatch.setattr(tools, "package_version", lambda name: None)
    package = "triton-windows" if system == "Windows" else "triton"
    assert f"pip install {package}”" in missing_tools("cuda")
    assert missing_tools("cpu") is None


def test_a_full_temporary_folder_comes_with_the_variable_that_moves_it(system, complete, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(2**40, 2**40, 5 * 2**20))
    said = missing_tools("cpu")
    assert "only 5 MB free" in said
    assert tempfile.gettempdir() not in said, "records and pictures carry it"
    assert ("TEMP " if system == "Windows" else "TMPDIR") in said


def test_no_temporary_folder_at_all_is_a_sentence(complete, monkeypatch):
    def none_usable():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/home/somebody/ComfyUI']")

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    assert "TMPDIR" in missing_tools("cpu")
    assert "somebody" not in missing_tools("cpu")


@pytest.mark.skipif(os.name != "posix", reason="runs Unix programs")
def test_a_compiler_that_only_seems_to_be_one_is_none(monkeypatch, tmp_path):
    """As on a Mac without Xcode's tools, where g++ is there and only says how to install them."""
    from torch._inductor import config

    stub = tmp_path / "g++"
    stub.write_text("#!/bin/sh\necho install it first\nexit 1\n")
    stub.chmod(0o755)
    with config.patch({"cpp.cxx": ("no-such-compiler", str(stub))}):
        assert "no working C++ compiler was found" in missing_tools("cpu")
    with config.patch({"cpp.cxx": ("no-such-compiler", str(stub), shutil.which("g++") or "c++")}):
        assert missing_tools("cpu") is None


def test_the_backend_says_so_without_compiling(complete, monkeypatch):
    monkeypatch.setattr(tools, "_runs", lambda name, windows: False)
    assert "C++ compiler" in BACKENDS["inductor"].absent(torch.device("cpu"))
