"""Machines that lack something: the workflow ends in a picture, and the record says what is missing and what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from examples import example, run, start

from scripts.environment import Environment


def overlay(environment: Environment, folder: Path, leave_out: str) -> Path:
    """A Python environment with everything that this one has, linked, but for one distribution."""
    packages = Path(subprocess.check_output([sys.executable, "-c", SITE], text=True).strip())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)], check=True)
    python = folder / "bin" / "python"
    target = Path(subprocess.check_output([str(python), "-c", SITE], text=True).strip())
    for item in packages.iterdir():
        if not item.name.startswith((leave_out, "__pycache__")):
            (target / item.name).symlink_to(item)
    return python


SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def no_compiler(environment: Environment, tmp_path: Path):
    variables = {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    return start(environment, "no_compiler", cold=True, variables=variables)


def no_onediff(environment: Environment, tmp_path: Path):
    python = overlay(environment, tmp_path / "venv", leave_out="onediff")
    return start(Environment(environment.cache, python, environment.host), "no_onediff")


@pytest.mark.skipif(sys.platform == "win32", reason="links need special rights on Windows")
@pytest.mark.parametrize(
    ("machine", "missing", "remedy"),
    [
        (no_compiler, "no working C++ compiler was found", "apt install g++"),
        (no_onediff, "onediff is not installed", "pip install --no-deps onediff"),
    ],
)
def test_the_picture_is_made_and_the_remedy_is_said(
    environment: Environment, tmp_path: Path, machine: Callable, missing: str, remedy: str
):
    with machine(environment, tmp_path) as server:
        result = run(server, example("sd15", server, steps=2))
        record = result.records["OneDiffCompile"]
        assert result.error is None
        assert result.pictures[0].std() > 1
        assert record["state"] == "uncompiled"
        assert record["backend"]["used"] is None
        assert missing in record["backend"]["reason"]
        assert remedy in record["backend"]["reason"]
        assert missing in record["summary"]

        stopped = run(server, example("sd15", server, steps=2, OneDiffCompile={"if_unfit": "stop"}))
        assert stopped.error.startswith("OneDiffCompile: OneDiff Compile (node ")
        assert missing in stopped.error
        assert run(server, example("sd15", server, steps=2)).error is None, "the queue goes on"
