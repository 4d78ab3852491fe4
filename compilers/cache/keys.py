"""Under which name a graph is kept: everything that compiled code depends on, hashed."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ...status.machine import device_name, package_version


def graph_key(backend: str, gm: torch.fx.GraphModule, inputs: Sequence[Any], config: dict[str, Any]) -> str:
    """The key of a graph that Dynamo captured, the same in every process.

    It only finds the entry: Inductor compares the graph, its inputs and its settings again by keys of its own.

    Args:
        inputs: what the graph is called with: tensors, real or fake, and symbolic sizes.
        config: Inductor settings that differ from its own.
    """
    devices = sorted({str(one.device) for one in inputs if isinstance(one, torch.Tensor)}) or ["cpu"]
    parts = [
        backend,
        _pack_version(),
        *_versions(),
        *(_device(name) for name in devices),
        str(torch.get_num_threads()),
        repr((torch.is_grad_enabled(), torch.is_inference_mode_enabled())),
        repr(torch.are_deterministic_algorithms_enabled()),
        repr((torch.get_float32_matmul_precision(), torch.get_default_dtype())),
        _settings(),
        repr(sorted(config.items(), key=str)),
        gm.code,
        *(_input(one) for one in inputs),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def tool_key(what: str) -> str:
    """The key of what Inductor builds for itself, once for each machine and versions. Its own file names tell apart
    whatever else that depends on."""
    return hashlib.sha256("\0".join((what, _pack_version(), *_versions(), _device("cpu"))).encode()).hexdigest()


def _input(one: Any) -> str:
    if isinstance(one, torch.Tensor):
        return f"{one.dtype} {one.device} {tuple(one.shape)} {tuple(one.stride())} {one.requires_grad}"
    return f"{type(one).__name__} {one}"


def _settings() -> str:
    """Inductor's settings, which other packs and the user's environment change."""
    from torch._inductor import config

    hashed: Any = getattr(config, "get_hash", None)
    try:
        return str(hashed())
    except Exception:  # another pack may have put there what cannot be hashed
        return ""


@cache
def _pack_version() -> str:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"', text, re.MULTILINE)
    return found[1] if found else "?"


@cache
def _versions() -> tuple[str, ...]:
    packages = (f"{name} {package_version(name)}" for name in ("onediff", "triton", "triton-windows"))
    built = (torch.__version__, str(torch.version.git_version), platform.python_version(), platform.platform())
    return (*built, *packages)


@cache
def _device(name: str) -> str:
    """A GPU with its capability and the versions below it; a CPU with its instruction sets."""
    device = torch.device(name)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return f"{device_name(device)} {capability} {torch.version.cuda} {torch.version.hip}"
    if device.type != "cpu":
        return f"{name} {device_name(device)}"
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text(errors="replace")
        flags = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return f"{device_name(device)} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"
