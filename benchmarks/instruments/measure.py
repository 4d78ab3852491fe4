"""The clock around every model call, Dynamo's own counters, and the peak of memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import comfyui_version
import torch

from .parts import parts, watch

#: Of the calls since the last look.
_calls: list[dict[str, float]] = []
_compiles_seen: set[str] = set()
_looked_at: dict[str, float] = {}
_begun_at_mb = 0.0


def install_clock() -> None:
    """Times each model call where the sampler makes it: outside of all wrappers, whoever compiles."""
    apply_model = comfy.model_base.BaseModel.apply_model

    def timed(self, *args: Any, **kwargs: Any) -> Any:
        before, loaded = compile_seconds(), libraries()
        synchronize()
        start = time.perf_counter()
        result = apply_model(self, *args, **kwargs)
        synchronize()
        seconds = time.perf_counter() - start
        compiled = {"compile_seconds": compile_seconds() - before, "libraries": libraries() - loaded}
        _calls.append({"seconds": seconds, **compiled})
        return result

    comfy.model_base.BaseModel.apply_model = timed


def synchronize() -> None:
    device = comfy.model_management.get_torch_device()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def libraries() -> int:
    """How many C++ libraries of Inductor's are loaded: one that was built beside comes later than its graph."""
    return sum(name.endswith((".inductor_entry_cpp", ".kernel")) for name in sys.modules)


def compile_seconds() -> float:
    """Dynamo's time of everything compiled so far, tracing and Inductor together."""
    from torch._dynamo.utils import compilation_time_metrics

    return sum(compilation_time_metrics.get("_compile.compile_inner", ()))


def _counts() -> dict[str, float]:
    from torch._dynamo.utils import counters

    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    return {"graphs": graphs, "breaks": breaks, "compile_seconds": compile_seconds()}


def phase() -> dict[str, Any]:
    """Since the last call: model calls, seconds spent compiling, graphs, graph breaks and recompiles (of the last 64
    compiles). Graphs leave out this pack's proof of its backend: it is no part of the model."""
    from torch._dynamo.utils import get_compilation_metrics

    new = [metrics for metrics in get_compilation_metrics() if str(metrics.compile_id) not in _compiles_seen]
    _compiles_seen.update(str(metrics.compile_id) for metrics in new)
    now = _counts()
    answer: dict[str, Any] = {name: value - _looked_at.get(name, 0) for name, value in now.items()}
    _looked_at.update(now)
    answer["graphs"] -= sum((metrics.co_name or "").startswith("onediff_proof") for metrics in new)
    answer["recompiles"] = sum(bool(metrics.recompile_reason) for metrics in new)
    answer["calls"], _calls[:] = list(_calls), []
    answer["peak_mb"], answer["parts"] = peak_mb(), parts()
    return answer


def begin() -> dict[str, Any]:
    """A way starts: nothing compiled before may help it, on disk or in this process, and its peak counts from here."""
    from torch._inductor.utils import clear_caches

    global _begun_at_mb
    clear_caches()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="inductor-", dir=os.environ["BENCHMARK_CACHES"])
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    _begun_at_mb = _kilobytes("VmRSS") / 1024
    return phase()


def watched() -> dict[str, Any]:
    """From now on `phase` tells where the seconds of a first picture go."""
    watch()
    return phase()


def peak_mb() -> float | None:
    """MiB: of CUDA the peak since ``begin``, of a process on the CPU what came on top of what it had then."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return _kilobytes("VmHWM") / 1024 - _begun_at_mb if _begun_at_mb else None


def _kilobytes(name: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return float(line.split()[1])
    return 0.0


def warm_up() -> dict[str, Any]:
    """Inductor's fixed start-up (imports, what the processor can do, headers), which comes once a process."""
    device = comfy.model_management.get_torch_device()

    def tiny(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x @ x, x.shape[-1:]).sin()

    start = time.perf_counter()
    with torch.inference_mode():
        torch.compile(tiny)(torch.randn(16, 16, device=device))
    return {"seconds": time.perf_counter() - start}


def machine() -> dict[str, Any]:
    """Where and with what the figures were taken."""
    device = comfy.model_management.get_torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "comfyui": comfyui_version.__version__,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
