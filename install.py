"""Installs what the pack needs: run it with ComfyUI's Python. ComfyUI-Manager does so by itself.

Arguments go to pip, or to uv where there is no pip: --dry-run only says what would come.

OneDiff comes alone, because of its own requirements this pack uses torch only, which ComfyUI has. The others bring the
newest diffusers, which brings newer versions of transformers and huggingface_hub than other packs may work with.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ONEDIFF = "onediff>=1.2.0"


def main() -> int:
    requirements = Path(__file__).resolve().with_name("requirements.txt")
    install = installer()
    if install is None:
        print("Neither pip nor uv was found for this Python: run “python -m ensurepip”, then this again.")
        return 1
    install += sys.argv[1:]
    return subprocess.call([*install, "-r", str(requirements)]) or subprocess.call([*install, "--no-deps", ONEDIFF])


def installer() -> list[str] | None:
    """The command that installs into this Python; environments that uv makes have no pip. None if there is none."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    uv = [sys.executable, "-m", "uv"] if find_spec("uv") else [path] if (path := shutil.which("uv")) else None
    return uv and [*uv, "pip", "install", "--python", sys.executable]


if __name__ == "__main__":
    sys.exit(main())
