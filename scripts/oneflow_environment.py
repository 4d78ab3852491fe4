"""A second environment, for OneFlow: its last release on PyPI needs Python 3.10 on Linux."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

from . import host
from .console import CannotContinue, duration, run_logged, say, tail
from .environment import PINS, ROOT, Environment, one_at_a_time
from .installing import install

_TEST_TOOLS = ("pytest", "pytest-timeout")
_NEEDED_GB = 12


def why_not() -> str | None:
    """Why this machine gets no such environment, None when it does."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"OneFlow exists for Linux on x86_64 only, and this is {platform.system()} on {platform.machine()}."
    if find_python() is None:
        return "there is no Python 3.10, the newest that OneFlow exists for; with python3.10 on the PATH they run."
    return None


def find_python() -> Path | None:
    """A Python 3.10 that can make virtual environments: on the PATH, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [shutil.which("python3.10"), *sorted(pyenv.glob("3.10.*/bin/python"), reverse=True)]
    check = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    for python in (Path(name) for name in named if name):
        with contextlib.suppress(OSError):
            says = subprocess.run([str(python), "-c", check], capture_output=True, text=True, check=False).stdout
            if says.split() == ["3", "10"]:
                return python
    return None


def prepare_oneflow(environment: Environment) -> Environment | str:
    """The environment, made or reused, or why there is none."""
    reason = why_not()
    if reason:
        return reason
    with one_at_a_time(environment.cache / "environment.lock"):
        return _prepare(environment)


def _prepare(environment: Environment) -> Environment | str:
    files = [environment.host / "requirements.txt", ROOT / "requirements.txt", ROOT / "requirements-oneflow.txt"]
    venv = environment.cache / f"venv-3.10-oneflow-{_hash([*files, ROOT / 'install.py'])}"
    made = Environment(environment.cache, venv / "bin" / "python", environment.host)
    if (venv / ".finished").is_file() and made.python.exists():
        return made
    free = shutil.disk_usage(environment.cache).free / 10**9
    if free < _NEEDED_GB:
        return f"the disk has {free:.1f} GB free, and about {_NEEDED_GB} GB are needed."
    say("Installing OneFlow beside torch and ComfyUI's requirements, for Python 3.10 (10 GB, only this once) …")
    started = time.monotonic()
    shutil.rmtree(venv, ignore_errors=True)
    log = environment.logs / "install-oneflow.log"
    log.unlink(missing_ok=True)
    if run_logged([str(find_python()), "-m", "venv", str(venv)], log, "Making a virtual environment"):
        raise CannotContinue("a virtual environment of Python 3.10 could not be made.", tail(log, 6))
    wanted = [*PINS, *_TEST_TOOLS, *(part for file in files for part in ("-r", str(file)))]
    if install(made.python, wanted, log, made.cache / "tmp-oneflow"):
        raise CannotContinue("OneFlow's environment could not be installed; the last lines are above.", tail(log, 12))
    (venv / ".finished").touch()
    say(f"Installed in {duration(time.monotonic() - started)}.")
    return made


def _hash(files: list[Path]) -> str:
    """Changes with anything that is installed."""
    digest = hashlib.sha256("\n".join((*PINS, *_TEST_TOOLS, host.PACKAGES[host.VERSION].sha256)).encode())
    for file in files:
        digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:8]
