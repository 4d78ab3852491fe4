"""Installs packages into a virtual environment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .console import run_logged

_PACK_INSTALLER = Path(__file__).resolve().parent.parent / "install.py"


def install(python: Path, wanted: list[str], log: Path, scratch: Path) -> int:
    """Installs with uv, which takes a fifth of pip's time; with pip where uv cannot be had, or fails (it reads none of
    pip's settings). One call for all, so that no requirement pulls in another torch; then the pack's own install.py.

    Args:
        wanted: requirements, and files of them as ``-r FILE``.
        scratch: a folder for downloads, on the disk of the environment; it is gone afterwards. uv's are linked into the
            environment, so that this costs nothing.

    Returns:
        The exit code.
    """
    scratch.mkdir(exist_ok=True)
    variables = {**os.environ, "TMPDIR": str(scratch), "UV_CACHE_DIR": str(scratch / "uv")}
    pip = [str(python), "-m", "pip", "install", "--quiet", "--progress-bar", "off"]
    try:
        code = run_logged([*pip, "uv"], log, "Fetching uv", env=variables)
        if not code:
            uv = [str(python), "-m", "uv", "pip", "install", "--quiet", "--python", str(python), *wanted]
            code = run_logged(uv, log, "Installing", env=variables)
        if code:
            shutil.rmtree(scratch / "uv", ignore_errors=True)
            code = run_logged([*pip, *wanted], log, "Installing with pip", env=variables)
        return code or run_logged([str(python), str(_PACK_INSTALLER)], log, "Installing OneDiff", env=variables)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
