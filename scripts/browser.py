"""Finds a Chromium for the browser tests, or installs one where that is allowed, or says why there is none."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .console import run_logged, say, tail
from .environment import Environment

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_STARTS = (
    "import sys; from playwright.sync_api import sync_playwright as p\n"
    "with p() as play: play.chromium.launch(executable_path=sys.argv[1] or None, args=['--no-sandbox']).close()"
)


def variables(environment: Environment) -> dict[str, str]:
    """ONEDIFF_CHROMIUM: the browser to use, empty for Playwright's own. Without any, ONEDIFF_NO_BROWSER: the reason."""
    reason = os.environ.get("ONEDIFF_NO_BROWSER")
    if reason:
        say(f"Browser tests skipped: {reason}")
        return {"ONEDIFF_NO_BROWSER": reason}
    for find in (_installed, _from_playwright, _from_debian, _download):
        found = find(environment)
        if found is not None:
            return {"ONEDIFF_CHROMIUM": found}
    reason = "no Chromium was found and none could be installed (log: " + str(_log(environment)) + ")"
    say(f"Browser tests skipped: {reason}. Install the package chromium and run the same command again.")
    return {"ONEDIFF_NO_BROWSER": reason}


def _installed(environment: Environment) -> str | None:
    named = os.environ.get("ONEDIFF_CHROMIUM")
    for name in (named,) if named else _NAMES:
        path = shutil.which(name)
        if path and _starts(environment, path):
            return path
    return None


def _from_playwright(environment: Environment) -> str | None:
    return "" if _starts(environment, "") else None


def _from_debian(environment: Environment) -> str | None:
    """Only as root on Debian or Ubuntu: nobody is asked for a password in the middle of a test run."""
    if not shutil.which("apt-get") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    say("Installing Chromium for the browser tests (apt-get) …")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]):
        if run_logged(command, _log(environment), "Installing Chromium", env=env):
            return None
    return _installed(environment)


def _download(environment: Environment) -> str | None:
    say("Downloading Chromium for the browser tests (Playwright) …")
    command = [str(environment.python), "-m", "playwright", "install", "chromium"]
    if run_logged(command, _log(environment), "Downloading Chromium"):
        return None
    if _starts(environment, ""):
        return ""
    if sys.platform == "linux":
        say("  | " + "\n  | ".join(tail(_log(environment), 5)))
    return None


def _starts(environment: Environment, path: str) -> bool:
    return run_logged([str(environment.python), "-c", _STARTS, path], _log(environment), "Looking for Chromium") == 0


def _log(environment: Environment) -> Path:
    return environment.logs / "chromium.log"
