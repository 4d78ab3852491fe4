"""The package that a kernel comes from: whether it is there, and how it gets there. It is not imported for that."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass

from ...status.machine import package_version
from ..contract import Unsupported


@dataclass(frozen=True)
class Package:
    """A package by the ``module`` that is imported, with what a person does to have it (``fix``).

    ``distribution`` is its name in the registry, where that is another one; ``least`` the first version that will do.
    """

    module: str
    fix: str
    distribution: str | None = None
    least: str | None = None

    @property
    def name(self) -> str:
        return self.distribution or self.module

    def absent(self) -> Unsupported | None:
        """Why it cannot be used here, as far as that is known without importing it; None when it may be."""
        try:
            found = importlib.util.find_spec(self.module) is not None
        except (ImportError, ValueError):  # half of it is there
            found = False
        if not found:
            return Unsupported(f"the package {self.name} is not installed", self.fix)
        version = package_version(self.name)
        if self.least is not None and version is not None and _numbers(version) < _numbers(self.least):
            return Unsupported(f"{self.name} {version} is older than {self.least}", self.fix)
        return None


def _numbers(version: str) -> list[int]:
    """``_numbers("0.2.31+cu130")`` is [0, 2, 31]."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]
