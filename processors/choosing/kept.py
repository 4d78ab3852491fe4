"""Choices that are remembered: with the model while it is loaded, and on disk by machine, versions and shape."""

from __future__ import annotations

import hashlib
import platform
import time
import weakref
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from ...patching.foreign import origin
from ...proving.files import KeptEntries
from ...proving.kept_proofs import digest
from ...status.machine import device_name, package_version
from .candidates import ranked
from .decision import Choice, Decision
from .host_call import Shape
from .trial import Result, Verdict

#: Bytes of the file that is read, and the shapes that it holds; a shape has about 1,500 bytes.
_MOST, _MOST_SHAPES = 2**21, 1_000

#: Seconds after which is looked again whether something is faster, where nothing was: the machine may have been busy.
NO_GAIN_LASTS = 24 * 3600.0

_VERDICTS: dict[str, Verdict] = {verdict: verdict for verdict in get_args(Verdict)}


class Choices:
    """Those of this process. The host names the folder where they are kept."""

    def __init__(self, folder: Path | None = None) -> None:
        self.on_disk = KeptEntries("attention", "choices of attention", _MOST, folder)
        self._by_model: weakref.WeakKeyDictionary[nn.Module, dict[str, Decision]] = weakref.WeakKeyDictionary()
        #: Counts how often they were cleared: patches on a model decide anew then.
        self.epoch = 0

    def of_model(self, model: nn.Module, key: str) -> Decision | None:
        """What was decided for a loaded model."""
        return self._by_model.get(model, {}).get(key)

    def note(self, model: nn.Module, key: str, decision: Decision) -> None:
        """Remembers a decision with its model."""
        self._by_model.setdefault(model, {})[key] = decision

    def at_shape(self, key: str, shape: Shape) -> Choice | None:
        """What was chosen for a shape on this machine, at another start perhaps."""
        entry = self.on_disk.read().get(f"{key} {shape.name}")
        choice = _choice(entry)
        if entry is None or choice is None or choice.kernel is not None:
            return choice
        age = time.time() - entry["time"] if isinstance(entry.get("time"), int | float) else NO_GAIN_LASTS
        return choice if 0 <= age < NO_GAIN_LASTS else None

    def keep(self, key: str, decision: Decision, known: Collection[Shape] = ()) -> None:
        """Keeps what was measured, without what failed for a reason that may be gone the next time. ``known`` shapes
        were there already; they do not grow younger."""
        now, new = time.time(), {}
        for shape, choice, _ in decision.shapes:
            lasting = tuple(one for one in choice.results if not one.passing)
            if lasting and choice.before_ms is not None and shape not in known:
                new[f"{key} {shape.name}"] = {**asdict(replace(choice, results=lasting)), "time": now}

        def change(entries: dict[str, Any]) -> dict[str, Any]:
            for name, entry in new.items():  # what was only completed does not grow younger either
                before = entries.get(name)
                since = before.get("time") if isinstance(before, dict) else None
                if isinstance(since, int | float) and 0 <= now - since < NO_GAIN_LASTS:
                    entry["time"] = since
            return dict(list({**entries, **new}.items())[-_MOST_SHAPES:])

        self.on_disk.change(change)

    def forget(self) -> None:
        """Everything is measured anew."""
        self._by_model.clear()
        self.epoch += 1
        self.on_disk.change(lambda entries: {})


CHOICES = Choices()


def key_of(device: torch.device, quality: str, hosts: Callable) -> str:
    """Device, versions, what computed before, and which kernels may be taken."""
    packages = [kernel.package.name for _, kernel in ranked() if kernel.package is not None]
    versions = [f"{name} {package_version(name)}" for name in ("torch", *packages)]
    sources = Path(__file__).parents[1]
    code = [digest(sources / folder) for folder in ("built_in", "kernels", "choosing")]
    parts = [device_name(device), platform.node(), torch.get_num_threads(), origin(hosts), *versions, *code]
    return f"{quality} {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def _choice(entry: Any) -> Choice | None:
    """A choice as it was kept, None for what is none. The kernel is only ever compared with names that are known."""
    names = {name for name, _ in ranked()}
    try:
        results = tuple(
            Result(
                str(one["name"]),
                _VERDICTS[one["verdict"]],
                _number(one["ratio"]),
                _number(one["error"]),
                one["reason"] and str(one["reason"]),
                whole_ms=_number(one["whole_ms"]),
            )
            for one in entry["results"]
        )
        kernel = entry["kernel"]
        if kernel is not None and kernel not in names:
            return None
        before, after, error = (_number(entry[name]) for name in ("before_ms", "after_ms", "error"))
        return Choice(kernel, before, after, error, results)
    except (TypeError, KeyError, ValueError):
        return None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
