"""The time of a call and the memory of a phase, on a device that works behind Python. Torch's part of an accelerator,
which is not here, is stood in for."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from onediff_pack.measure.stopwatch import PeakMemory, Stopwatch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def waits(monkeypatch):
    """Devices that were waited for."""
    devices: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", devices.append)
    return devices


def test_a_call_gives_its_result_and_its_milliseconds(waits):
    result, milliseconds = Stopwatch(CPU).time(lambda: time.sleep(0.02) or "result")
    assert result == "result"
    assert 20 <= milliseconds < 2000
    assert waits == []


def test_an_accelerator_is_waited_for_before_and_after(waits, monkeypatch):
    watch, seen = Stopwatch(CUDA), list[Any]()
    clock = iter([1.0, 1.5])
    monkeypatch.setattr(time, "perf_counter", lambda: seen.append(len(waits)) or next(clock))
    _, milliseconds = watch.time(lambda: seen.append("call"))
    assert seen == [1, "call", 2], "what ran before does not count, and what the call began does"
    assert waits == [CUDA, CUDA]
    assert milliseconds == 500


def test_without_waiting_the_device_goes_on(waits):
    Stopwatch(CUDA).time(lambda: None, wait=False)
    assert waits == []


def test_a_torch_without_accelerators_waits_for_none(monkeypatch):
    monkeypatch.delattr(torch, "accelerator")
    Stopwatch(CUDA).time(lambda: None)


def test_peaks_are_those_of_a_phase_in_mebibytes(monkeypatch):
    peak = {CUDA: 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.update({device: 0}))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak[device])
    memory = PeakMemory(CUDA)
    peak[CUDA] = 2**30
    memory.start()
    peak[CUDA] = max(peak[CUDA], 1_300_000)
    assert memory.read() == 1.2


@pytest.mark.parametrize(("device", "available"), [(CPU, True), (CUDA, False), (torch.device("mps"), True)])
def test_a_device_that_counts_no_memory_has_no_peak(monkeypatch, device, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    memory = PeakMemory(device)
    memory.start()
    assert memory.read() is None
