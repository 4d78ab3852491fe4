"""Makes the pack importable as ComfyUI does it, under a name of its own, and the host importable for its classes.

The repository's root must not be on sys.path: its ``nodes`` would hide ComfyUI's ``nodes.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PACK = "onediff_pack"


# Inductor's trial builds for each kind of vector instructions take up to 40 s in every process, also in the servers
# that tests start. This is torch's own switch: what the processor lists works.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")

os.environ.setdefault("ONEDIFF_TEST_RUN", str(os.getpid()))  # pytest-xdist's workers inherit it


def _host_folder() -> Path | None:
    named = os.environ.get("ONEDIFF_HOST")
    if named == "none":  # scripts/test.py --quick
        return None
    found = [Path(named)] if named else sorted((ROOT / ".cache" / "host").glob("ComfyUI-*"))
    return next((folder for folder in found if (folder / "main.py").is_file()), None)


HOST = _host_folder()
if HOST is not None:
    sys.path.insert(0, str(HOST))
    from comfy.cli_args import args

    args.cpu = True
    args.use_pytorch_cross_attention = True

if hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
    # Torch 2.11 built for CUDA crashes on a machine without a GPU once the thread has ended that first entered fake
    # tensors. In ComfyUI that is the queue's, which does not end; a test's own may.
    torch._C._ensureCUDADeviceGuardSet()

# pytest hangs its handler on loggers that do not propagate. With one on this, Dynamo describes all that it traces.
logging.getLogger("torch.__trace").propagate = True
if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads of two workers and their servers on two cores would wait for each other at every operation.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

PACKAGES = {
    PACK: ROOT,
    "scripts": ROOT / "scripts",
    "benchmarks": ROOT / "benchmarks",
    "corpus": ROOT / "tests" / "checks" / "corpus",
}
for name, folder in PACKAGES.items():
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


@pytest.fixture(scope="session")
def host() -> Path:
    """The folder of the real ComfyUI."""
    if HOST is None:
        pytest.skip("ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
    return HOST


@pytest.fixture(autouse=True)
def _no_running_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Playwright's loop counts as running in the main thread for as long as a browser of this process is open."""
    if request.path.parent.name == "e2e":
        yield
        return
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "loadfile":
        return None
    from turns import Turns

    return Turns(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from order import side_by_side

    items.sort(key=lambda item: side_by_side(item.path))
    if "ONEDIFF_TEST_ALL" not in os.environ:
        skip = pytest.mark.skip(reason="one of many alike, or one that takes minutes: scripts/test.py --all runs it")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Iterator[None]:
    """With the end of its log where a server stopped by itself."""
    outcome: Any = yield
    details = getattr(call.excinfo.value, "details", None) if call.excinfo else None
    if details:
        outcome.get_result().sections.append(("details", "\n".join(details)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        from examples import compiled_in_this_run

        cache = Path(os.environ.get("ONEDIFF_CACHE", ROOT / ".cache"))
        shutil.rmtree(compiled_in_this_run(cache), ignore_errors=True)
