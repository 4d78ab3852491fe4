"""The pack's own cost a step, on a model that does nothing. The bounds are loose: they catch a slip such as looking at
the whole model at every step."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "overhead.py"


@pytest.fixture
def overhead():
    spec = importlib.util.spec_from_file_location("overhead", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.serial
def test_a_step_costs_microseconds(overhead):
    found = overhead.measure(blocks=38, steps=50, repeats=5)
    assert found["patch"] < 1000
    assert found["kept uncompiled"] < 200
    assert found["compiled"] < 4000
    assert found["status"] < 50, "not written and sent at every step"
    assert found["publish"] < 5000
