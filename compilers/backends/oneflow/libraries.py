"""Finds OneFlow and the CUDA libraries that it is linked with, and loads them without environment variables."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import platform
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from ..protocol import BackendUnavailable

log = logging.getLogger(__name__)

#: What OneFlow 0.9.0 is linked with and does not bring, in the order of their dependence; and what brings it. Needed
#: on a CPU too.
LIBRARIES = {
    "nvidia-cublas-cu11": ("cublas/lib/libcublasLt.so.11", "cublas/lib/libcublas.so.11"),
    "nvidia-cudnn-cu11==8.6.0.163": (
        "cudnn/lib/libcudnn_ops_infer.so.8",
        "cudnn/lib/libcudnn_cnn_infer.so.8",
        "cudnn/lib/libcudnn_ops_train.so.8",
        "cudnn/lib/libcudnn_cnn_train.so.8",
    ),
}

#: Modules that OneDiff 1.2.0's own backend imports, and that came after 0.9.0.
ONEDIFFS_NEEDS = ("oneflow.framework.args_tree", "oneflow.mock_torch.mock_importer")

#: Pythons that OneFlow 0.9.0 was built for. On newer ones pip installs a placeholder of the same name.
PYTHONS = ((3, 7), (3, 10))


def why_absent() -> str | None:
    """Why OneFlow cannot work here, as far as can be told without importing it; None when it may."""
    if find_spec("oneflow") is None:
        if platform.system() != "Linux":
            return f"OneFlow exists for Linux only, and this is {platform.system()}; use inductor."
        if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
            return f"{_wrong_python()}; use inductor."
        return "oneflow is not installed: run “pip install -r requirements-oneflow.txt” in ComfyUI's Python."
    return None


def _wrong_python() -> str:
    return (
        f"OneFlow 0.9.0, the last release on PyPI, exists for Python 3.7 to 3.10 on Linux, and this is Python "
        f"{sys.version_info[0]}.{sys.version_info[1]}"
    )


def load_oneflow() -> ModuleType:
    """OneFlow, imported. The caller has it proven in a child process first: its libraries may end the process.

    Raises:
        BackendUnavailable: with what is missing and the remedy.
    """
    if "oneflow" in sys.modules:
        return sys.modules["oneflow"]
    missing = _load_libraries()
    try:
        with _own_interrupt():
            return importlib.import_module("oneflow")
    except Exception as error:  # the placeholder raises RuntimeError, a broken installation anything
        sys.modules.pop("oneflow", None)
        raise BackendUnavailable("oneflow", _explain(error, missing)) from error


@contextlib.contextmanager
def _own_interrupt() -> Iterator[None]:
    """Leaves Ctrl+C to Python: OneFlow's library, when loaded, sets a handler that ends the process with exit code 255
    and without ComfyUI's cleaning up. Python's ``signal`` would work in the main thread only."""
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.restype = put.restype = ctypes.c_void_p
    handler = get(signal.SIGINT)
    try:
        yield
    finally:
        put(signal.SIGINT, ctypes.c_void_p(handler))


def _load_libraries() -> list[str]:
    """Loads the libraries that pip installed; returns the packages of those that are not there."""
    missing = []
    folders = [Path(folder) / "nvidia" for folder in sys.path]
    for package, names in LIBRARIES.items():
        for name in names:
            file = next((folder / name for folder in folders if (folder / name).is_file()), None)
            try:
                # By file, or by name where the system has them.
                ctypes.CDLL(str(file or Path(name).name), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                log.debug("%s: %s", name, error)
                missing.append(package)
                break
    return missing


def _explain(error: Exception, missing: list[str]) -> str:
    what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if missing and isinstance(error, ImportError | OSError):
        return f"OneFlow's CUDA 11 libraries are missing ({what}): run “pip install {' '.join(missing)}”."
    if isinstance(error, RuntimeError) and not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return f"the installed oneflow is a placeholder that cannot be imported. {_wrong_python()}; use inductor."
    return f"oneflow cannot be imported ({type(error).__name__}: {what}); install it by requirements-oneflow.txt."


def has_onediffs_needs() -> bool:
    """Whether this OneFlow, imported by now, has what OneDiff's own backend uses. PyPI's 0.9.0 has not."""
    graph = getattr(getattr(sys.modules.get("oneflow"), "nn", None), "Graph", None)
    return all(_exists(name) for name in ONEDIFFS_NEEDS) and hasattr(graph, "with_dynamic_input_shape")


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # what should hold it is not a package
        return False
