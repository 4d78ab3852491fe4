"""What is kept in small files: a damaged one is as none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from onediff_pack.processors.choosing.host_call import Shape
from onediff_pack.processors.choosing.kept import Choices
from onediff_pack.proving.files import KeptEntries
from onediff_pack.proving.kept_proofs import ProofStore

HUGE = "1" + "0" * 400


@pytest.mark.parametrize("number", [HUGE, f"-{HUGE}", "1e999", "NaN", "Infinity", "9" * 5_000])
def test_numbers_that_nothing_can_be_computed_with_leave_a_file_unread(tmp_path: Path, number: str) -> None:
    shape = Shape("float32", 8, 8, 40, 2, 64, 64, None)
    proof = {"available": False, "reason": "it raised.", "seconds": 1.0, "startup_seconds": None, "speed": None}
    choice = {"kernel": None, "before_ms": 1.0, "after_ms": 1.0, "error": None, "results": []}
    for name, key, entry in (("proofs", "key", proof), ("attention", f"key {shape.name}", choice)):
        text = json.dumps({key: {**entry, "time": 12345}}).replace("12345", number)
        (tmp_path / f"{name}.json").write_text(text)
    assert ProofStore(tmp_path).get("key") is None
    assert Choices(tmp_path).at_shape("key", shape) is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    entries: dict[str, Any] = {"a": {"time": 1.5, "count": 2**60, "none": None}}
    KeptEntries("file", "entries", 2**20, tmp_path).change(lambda before: {**before, **entries})
    assert KeptEntries("file", "entries", 2**20, tmp_path).read() == entries
