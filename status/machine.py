"""What this machine is: versions and device, for the record."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata
from pathlib import Path

import torch


@cache
def package_version(name: str) -> str | None:
    """Version of an installed distribution, None when it is not installed. Imports nothing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def cpu_name() -> str:
    """The processor's name, for example "Intel(R) Xeon(R) Processor"."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """A device as its maker calls it, for example "NVIDIA H100 80GB HBM3"."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return cpu_name() if device.type == "cpu" else str(device)


def machine(device: torch.device, comfyui: str | None) -> dict[str, str | None]:
    """The record's ``machine`` field."""
    return {
        "comfyui": comfyui,
        "torch": torch.__version__,
        "onediff": package_version("onediff"),
        "python": platform.python_version(),
        "system": platform.system(),
        "device": device_name(device),
    }
