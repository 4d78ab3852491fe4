"""What Inductor needs besides torch, looked for before anything is compiled; each with the command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..status.machine import package_version
from .cache.folder import told

#: Bytes that the temporary folder must have free: what a graph leaves there, and the compiler's own files.
ROOM = 64 * 2**20

_INSTALL_COMPILER = {
    "Linux": "install one, for example with “sudo apt install g++”, and restart ComfyUI.",
    "Windows": "install the “Desktop development with C++” part of Visual Studio Build Tools, start ComfyUI from its "
    "“x64 Native Tools Command Prompt”.",
    "Darwin": "run “xcode-select --install” and restart ComfyUI.",
}


def no_compiler() -> str:
    """The sentence for a missing C++ compiler."""
    return f"no working C++ compiler was found: {_INSTALL_COMPILER.get(platform.system(), 'install one and restart.')}"


def no_headers() -> str:
    """The sentence for missing Python headers."""
    version = sysconfig.get_python_version()
    how = {
        "Windows": f"copy the folders “include” and “libs” of a full Python {version} into that of ComfyUI's Python",
        "Darwin": f"install Python with them, for example with “brew install python@{version}”, and use it for ComfyUI",
    }.get(platform.system(), f"install them, for example with “sudo apt install python{version}-dev”,")
    return f"Python's header files are missing: {how} and restart ComfyUI."


def no_triton() -> str:
    """The sentence for a missing Triton."""
    package = "triton-windows" if platform.system() == "Windows" else "triton"
    return f"Triton is missing: run “pip install {package}” in ComfyUI's Python and restart ComfyUI."


def missing_tools(device_type: str) -> str | None:
    """What is missing to compile for a kind of device, None when nothing is. Compiles nothing."""
    windows = platform.system() == "Windows"
    if device_type == "cuda":
        if package_version("triton") is None and package_version("triton-windows") is None:
            return no_triton()
        if windows:  # triton-windows brings its own compiler
            return _no_room()
    elif device_type != "cpu":
        return _no_room()
    if not any(_runs(name, windows) for name in _compilers(device_type, windows)):
        return no_compiler()
    if not any((Path(folder) / "Python.h").is_file() for folder in _include_folders()):
        return no_headers()
    return _no_room()


def _compilers(device_type: str, windows: bool) -> Sequence[str]:
    """The compilers that are tried, in the order in which Inductor tries them; for a GPU those that Triton tries."""
    if device_type == "cuda":
        named = os.environ.get("CC")
        return (named,) if named else ("clang", "gcc", "cc")
    if windows:
        return (os.environ.get("CXX", "cl"),)
    from torch._inductor import config

    wanted = config.cpp.cxx
    wanted = wanted if isinstance(wanted, list | tuple) else (wanted,)
    return [str(name) for name in wanted if name]


def _runs(name: str, windows: bool) -> bool:
    found = shutil.which(name)
    if found is None:
        return False
    asked = [found, "/help" if windows else "--version"]
    try:
        code = subprocess.run(asked, capture_output=True, timeout=30, stdin=subprocess.DEVNULL).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False
    return windows or code == 0  # not every compiler there knows /help


def _include_folders() -> set[str]:
    """Where Inductor looks for Python.h. A Python of a macOS framework has it elsewhere."""
    folders = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    if platform.system() == "Darwin":
        folders.add(str(Path(sysconfig.get_path("stdlib")).parents[1] / "Headers"))
    return {folder for folder in folders if folder}


def _no_room() -> str | None:
    variable = "TEMP" if platform.system() == "Windows" else "TMPDIR"
    mend = f"name another with the environment variable {variable} and restart ComfyUI."
    try:
        folder = tempfile.gettempdir()  # the first that can be written to
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"there is no temporary folder that can be written to ({told(error)}): {mend}"
    if free < ROOM:
        return f"the disk of the temporary folder has only {free // 2**20} MB free: make room, or {mend}"
    if not os.access(folder, os.W_OK):
        return f"the temporary folder is not writable: {mend}"
    return None
