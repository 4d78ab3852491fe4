"""The check of processors whose code is slow, never ends, or ends what calls it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import gallery
import pytest
import torch
from onediff_pack.checks import attached, check_processor
from onediff_pack.patching.ending.stopping import Overdue
from onediff_pack.patching.user_code import Attendance, Cancel
from torch import nn

pytestmark = pytest.mark.usefixtures("host")


class Kernel(nn.Module):
    """Calls what a test hands it, then computes as it should."""

    def __init__(self, act=lambda q, mask: None):
        super().__init__()
        self.act = act

    def forward(self, q, k, v, heads, mask=None):
        self.act(q, mask)
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        mask = mask if mask is None or mask.ndim != 3 else mask.unsqueeze(1)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


def rules(processor, seconds: float = 60.0, cancel: Cancel | None = None) -> list[tuple[str, str]]:
    found = check_processor(processor, gallery.site(), attendance=Attendance(cancel, seconds), thorough=False)
    for finding in found:
        assert finding.why.endswith(".") and finding.fix.endswith(".")
        assert Path(__file__).name in finding.where
    return [(finding.severity, finding.rule) for finding in found]


def test_a_slow_one_is_called_a_few_times_and_used_unchecked():
    calls = []

    def slow(q, mask):
        calls.append(type(q))
        time.sleep(0.55)

    assert rules(Kernel(slow)) == [("warning", "too-slow-to-check")]
    assert set(calls) == {torch.Tensor}, "nothing was traced"
    assert len(calls) <= 4


def test_a_slow_first_call_is_none():
    """It makes something, once."""
    waits = [0.6]
    assert rules(Kernel(lambda q, mask: waits and time.sleep(waits.pop()))) == []


def test_one_that_never_returns_is_an_error_and_goes_on_nowhere():
    def endless(q, mask):
        while True:
            q.add(1)

    assert rules(Kernel(endless), seconds=0.5) == [("error", "never-returns")]
    until = time.monotonic() + 10
    while any(thread.name.startswith("OneDiff:") for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_one_that_waits_in_c_code_spoils_no_later_check():
    """As a download that nobody answers. Its thread cannot be ended, and each half second it is tried again."""
    waits = threading.Lock()
    waits.acquire()
    try:
        assert rules(Kernel(lambda q, mask: waits.acquire()), seconds=0.5) == [("error", "never-returns")]
        assert any(thread.name.startswith("OneDiff: end") for thread in threading.enumerate())
        for _ in range(3):
            assert rules(Kernel(), seconds=30.0) == []
    finally:
        waits.release()


def test_a_trace_without_an_end_is_given_up_in_time():
    """Quick to run, and for Dynamo a graph of millions of operations."""

    class Long(Kernel):
        def forward(self, q, k, v, heads, mask=None):
            total = 0
            for number in range(300_000):
                total = total + number % 7
            return super().forward(q, k, v, heads, mask)

    check_processor(Kernel(), gallery.site(), thorough=False)  # imports
    start = time.monotonic()
    found = rules(Long(), seconds=6.0)
    assert time.monotonic() - start < 12
    assert ("warning", "check-unfinished") in found
    assert torch.compile(lambda x: x + 1, backend="eager", fullgraph=True)(torch.ones(1)) == 2, "Dynamo goes on"
    assert type(torch.ones(1)) is torch.Tensor and type(torch.ones(1) + 1) is torch.Tensor


def test_a_long_loop_is_not_traced():
    """Dynamo takes about 10 ms for each operation, and Inductor more: minutes for a loop over all heads of SDXL."""

    class Sliced(Kernel):
        def forward(self, q, k, v, heads, mask=None):
            rounds = [super(Sliced, self).forward(q, k, v, heads, mask) for _ in range(30)]
            return torch.stack(rounds).mean(dim=0)

    check_processor(Kernel(), gallery.site(), thorough=False)  # imports
    traced = torch._dynamo.utils.counters["stats"]["calls_captured"]
    start = time.process_time()
    assert rules(Sliced()) == [("warning", "too-long")]
    assert time.process_time() - start < 10
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] == traced


def test_after_one_kind_of_site_the_others_are_not_tried():
    calls = []

    def endless(q, mask):
        calls.append(q)
        time.sleep(1.2)

    processor = Kernel(endless)
    sites = [(gallery.site(kind), processor) for kind in ("cross", "self")]
    (finding,) = attached.check_attached(sites, torch.float32, torch.device("cpu"))
    assert finding.rule == "too-slow-to-check" and len(finding.also) == 1
    assert len(calls) <= 4


class OldInterrupt(Exception):
    """The host's interrupt was an Exception up to ComfyUI 0.18.2."""


@pytest.mark.parametrize("of", [OldInterrupt, type("NewInterrupt", (BaseException,), {})])
@pytest.mark.parametrize("when", ["real", "fake"])
def test_the_hosts_own_interrupt_passes(of, when):
    def interrupted(q, mask):
        if (type(q) is torch.Tensor and q.device.type == "cpu") == (when == "real"):
            raise of

    with pytest.raises(of):
        rules(Kernel(interrupted), cancel=Cancel(lambda: None, of))


def test_cancel_ends_a_check_that_runs():
    asked = []

    def check():
        asked.append(time.monotonic())
        if len(asked) > 3:
            raise OldInterrupt

    def endless(q, mask):
        while not (type(q) is torch.Tensor and q.device.type == "cpu"):
            pass

    with pytest.raises(OldInterrupt):
        rules(Kernel(endless), cancel=Cancel(check, OldInterrupt))
    assert type(torch.ones(1) + 1) is torch.Tensor, "no fake tensors are left"


def test_processors_are_told_apart_without_being_asked():
    class Alike(Kernel):
        def __hash__(self):
            return 0

        def __eq__(self, other):
            raise SystemExit

    both = Alike(), Alike()
    for processor in (*both, *both):
        assert attached.check_attached([(gallery.site(), processor)], torch.float32, torch.device("cpu")) == []


def test_random_numbers_come_as_they_would_have():
    site = gallery.site()
    torch.manual_seed(5)
    expected = torch.rand(3)
    for act in (lambda q, mask: time.sleep(0.55), lambda q, mask: torch.manual_seed(1) and time.sleep(3)):
        torch.manual_seed(5)
        check_processor(Kernel(act), site, attendance=Attendance(seconds=2.0))
        assert torch.equal(torch.rand(3), expected)


def test_tracing_in_a_persons_code_does_not_crash_what_traces_later():
    """Torch 2.11 built for CUDA does on a machine without a GPU, once the thread that traced first has ended."""
    code = (
        "import sys, types; pack = sys.modules['pack'] = types.ModuleType('pack'); pack.__path__ = [sys.argv[1]]\n"
        "import torch\n"
        "from torch._subclasses.fake_tensor import FakeTensorMode\n"
        "from pack.patching.user_code import Attendance\n"
        "def fake():\n"
        "    with FakeTensorMode(allow_non_fake_inputs=True): torch.empty(2) + torch.empty(2)\n"
        "for _ in range(5): Attendance().apart(fake, 'a test')\n"
        "fake()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parents[2])], check=True, timeout=120)


def test_nothing_comes_to_a_thread_that_is_through(monkeypatch):
    """Its work ends just when it is to be ended: Python would print what nobody catches."""
    uncaught = []
    monkeypatch.setattr(threading, "excepthook", lambda args: uncaught.append(args.exc_type))
    for number in range(100):
        ends = time.perf_counter() + 0.05 + number % 20 * 0.0005

        def work(ends=ends):
            while time.perf_counter() < ends:
                pass

        with contextlib.suppress(Overdue):
            Attendance(seconds=0.05).apart(work, "a call")
    assert uncaught == []
