"""The type checker for the canvas extension's JavaScript, from npm, in the cache folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .environment import Environment, one_at_a_time

#: The compiler in native code: it reads `web/` in under a second. Its options are in tsconfig.json.
VERSION = "7.0.2"
#: npm itself would try for minutes to reach a registry that does not answer.
_SECONDS = 120


def prepare_tsc(environment: Environment) -> Path | str:
    """The script to run with Node.js, installed now or before, or why there is none."""
    folder = environment.cache / f"typescript-{VERSION}"
    tsc = folder / "node_modules" / "typescript" / "bin" / "tsc"
    finished = folder / ".finished"
    with one_at_a_time(environment.cache / "typescript.lock"):
        if finished.is_file() and tsc.is_file():
            return tsc
        npm = shutil.which("npm")
        if npm is None:
            return "npm is not installed; it comes with Node.js."
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        quietly = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--fetch-retries=1")
        command = [npm, "install", "--prefix", str(folder), *quietly, f"typescript@{VERSION}"]
        try:
            installed = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"npm could not install TypeScript {VERSION} ({type(error).__name__})."
        if installed.returncode or not tsc.is_file():
            said = next((line for line in installed.stderr.splitlines() if line.startswith("npm error")), "no word why")
            return f"npm could not install TypeScript {VERSION} ({said.removeprefix('npm error ')})."
        finished.touch()
        return tsc
