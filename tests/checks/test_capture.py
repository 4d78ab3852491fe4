"""Capturing tells every line that breaks a graph, and leaves nothing behind."""

from __future__ import annotations

import random
import sys
import threading
from typing import Any

import gallery
import numpy as np
import pytest
import torch
from onediff_pack.checks.attached import check_attached
from onediff_pack.checks.graph.capture import capture
from onediff_pack.checks.graph.rehearsal import rehearsal
from onediff_pack.checks.mounted import Mounted, mount
from onediff_pack.checks.rule import apply
from onediff_pack.processors import KernelProcessor, Site, adapt, get_processor
from torch import nn

pytestmark = pytest.mark.usefixtures("host")
SDPA = get_processor("sdpa")
counted = 0
seen: list[int] = []


def mounted(processor, kind="cross"):
    return mount(adapt(processor), gallery.site(kind), torch.float32, torch.device("cpu"))


def lines(processor):
    """Rule and text of the line of each finding."""
    with open(__file__) as file:
        source = file.readlines()
    found = apply("hazards", mounted(processor))
    return {(f.rule, f.severity, source[int(f.where.rpartition(":")[2]) - 1].strip()) for f in found}


class Untidy(nn.Module):
    """Changes everything that a forward can change."""

    total: torch.Tensor
    new: int

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.history = [1]
        self.by_size = {}
        self.last = None
        self.register_buffer("total", torch.zeros(1))

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        global counted
        counted += 1
        seen.append(1)
        self.calls += 1
        self.history.append(2)
        self.by_size[q.shape[1]] = 1
        self.last = q
        self.new = heads
        self.total += 1
        return SDPA(q + torch.randn_like(q), k, v, heads, mask, **kwargs)


def test_nothing_stays_behind():
    """But for globals, which belong to no one processor: a whole check puts those back."""
    processor = Untidy().eval()
    history, by_size, forward = processor.history, processor.by_size, processor.__dict__.get("forward")
    config = torch._dynamo.config.save_config()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    subject = mounted(processor)
    torch.manual_seed(3)
    assert subject.evidence(rehearsal).plain
    assert subject.evidence(capture).plain is not None or subject.evidence(capture).masked is not None
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected
    assert (processor.calls, processor.last, processor.total.item()) == (0, None, 0)
    assert processor.history is history and history == [1]
    assert processor.by_size is by_size and by_size == {}
    assert not hasattr(processor, "new") and processor.__dict__.get("forward") is forward
    assert torch._dynamo.config.save_config() == config
    assert sys.gettrace() is None or "coverage" in sys.modules


def test_a_whole_check_puts_the_globals_of_a_file_back():
    before = counted, list(seen)
    assert check_attached([(gallery.site("cross"), adapt(Untidy().eval()))], torch.float32, torch.device("cpu"))
    assert (counted, seen) == before


def test_each_change_is_named():
    assert {name for _, _, name in lines(Untidy())} == {
        "counted += 1",
        "seen.append(1)",
        "self.calls += 1",
        "self.history.append(2)",
        "self.by_size[q.shape[1]] = 1",
        "self.last = q",
        "self.new = heads",
        "self.total += 1",
    }


def test_capturing_takes_nothing_from_other_graphs():
    """A compiled graph of the same processor keeps its compiled code, however often the processor is captured."""
    processor = SDPA
    compiled = []

    def backend(graph, inputs):
        compiled.append(1)
        return graph.forward

    run = torch.compile(lambda q: processor(q, q, q, 2), backend=backend, fullgraph=True)
    q = torch.randn(2, 24, 32)
    run(q)
    for _ in range(12):  # more than Dynamo's limit of 8 graphs
        found = mounted(processor).evidence(capture)
        assert (found.breaks, found.recompiles) == ([], [])
    run(q)
    assert compiled == [1]


def test_capturing_while_another_thread_computes():
    stop, failures, rounds = threading.Event(), [], []
    run = torch.compile(lambda q: SDPA(q, q, q, 2), backend="eager", fullgraph=True)

    def sample():
        q = torch.ones(2, 24, 32)
        expected = SDPA(q, q, q, 2)
        while not stop.is_set():
            if not torch.allclose(run(q), expected):
                failures.append("another result")
            rounds.append(1)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        for _ in range(3):
            assert mounted(Untidy()).evidence(capture).recompiles
            assert mounted(SDPA).evidence(capture).breaks == []
    finally:
        stop.set()
        thread.join()
    assert rounds and not failures


class Twice(nn.Module):
    """Breaks twice where it runs, and once where it does not."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        print("first", file=sys.stderr)  # noqa: T201
        if q.sum() > 1e9:
            print("never", file=sys.stderr)  # noqa: T201
        print("last", file=sys.stderr)  # noqa: T201
        return SDPA(q, k, v, heads, mask, **kwargs)


def test_every_break_is_reported_not_only_the_first():
    assert lines(Twice()) == {
        ("prints", "warning", 'print("first", file=sys.stderr)  # noqa: T201'),
        ("depends-on-values", "warning", "if q.sum() > 1e9:"),
        ("prints", "warning", 'print("last", file=sys.stderr)  # noqa: T201'),
    }


@torch.library.custom_op("onediff_tests::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class CallsKernel(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(double(q), k, v, heads, mask, **kwargs)


def test_a_kernel_whose_shapes_are_unknown():
    (finding,) = apply("hazards", mounted(CallsKernel()))
    assert (finding.rule, finding.uncompiled) == ("opaque-kernel", True)
    assert "calls double, which" in finding.what and "register_fake" in finding.fix
    double.register_fake(torch.empty_like)
    assert apply("hazards", mounted(CallsKernel())) == []


class AttendsInHalf(nn.Module):
    """Right, with an attention that projects in another dtype."""

    level = "module"

    def forward(self, attn, x, context=None, mask=None, value=None):
        context = x if context is None else context
        return attn.to_out(SDPA(attn.to_q(x), attn.to_k(context), attn.to_v(context), attn.heads, mask))


def test_a_model_whose_weights_are_elsewhere():
    """On the meta device, as before loading: nothing is moved, and the processor is captured all the same."""
    site = gallery.site()
    site.module.to("meta")
    subject = mount(adapt(AttendsInHalf()), site, torch.bfloat16, torch.device("cpu"))
    found = subject.evidence(capture)
    assert (found.masked, found.breaks, found.recompiles) == (True, [], [])
    assert {p.device.type for p in site.module.parameters()} == {"meta"}


class PrintsSplit(nn.Module):
    """Prints where heads come apart, as blocks without projections pass them."""

    def forward(self, q, k, v, heads, mask=None, skip_reshape=False):
        if skip_reshape:
            print("heads apart", file=sys.stderr)  # noqa: T201
        return SDPA(q, k, v, heads, mask, skip_reshape)


def test_a_block_without_projections_is_called_with_heads_apart():
    block: Any = nn.Module()
    block.num_heads, block.head_dim = 2, 16
    subject = mount(adapt(PrintsSplit()), Site("block", block, "self", False), torch.float32, torch.device("cpu"))
    assert [finding.rule for finding in apply("hazards", subject)] == ["prints"]
    assert apply("hazards", mounted(PrintsSplit())) == []
    subject = mount(SDPA, subject.site, torch.float32, torch.device("cpu"))
    assert (subject.evidence(capture).masked, subject.evidence(capture).recompiles) == (True, [])


def test_what_fails_uncompiled_is_left_to_the_probe():
    class Fails(nn.Module):
        def forward(self, q, k, v, heads, mask=None, **kwargs):
            print("about to fail", file=sys.stderr)  # noqa: T201
            return q @ v[:, :1, :1, None]

    assert apply("hazards", mounted(Fails())) == []


def test_a_processor_without_source():
    class Kernel(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
            return q * heads

    scripted = torch.jit.script(Kernel())
    site, processor = gallery.site("self"), Unread(scripted)
    (finding,) = apply("hazards", Mounted("", scripted, processor, site, torch.float32, torch.device("cpu")))
    assert (finding.rule, finding.uncompiled) == ("graph-break", True)


class Unread(KernelProcessor):
    """Calls a scripted module, as what adapts a processor does."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, q, k, v, heads, mask=None, *args, **kwargs):
        return self.inner(q, k, v, heads)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = 0

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        self.step += 1
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if hidden_states.shape[-1] > 100:
            print(self.step)  # noqa: T201
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        return attn.to_out[0](SDPA(q, k, v, attn.heads, attention_mask)) / self.step


def test_sites_that_differ_in_widths_are_captured_once_and_each_line_that_runs_is_found():
    """A capture takes most of a check's time, and a model has sites of many widths."""

    def found(*widths, kinds=("self", "cross")):
        stats, processor = torch._dynamo.utils.counters["stats"], adapt(Counts().eval())
        before = stats["unique_graphs"]
        places = [(gallery.site(kind, width), processor) for kind in kinds for width in widths]
        findings = check_attached(places, torch.float32, torch.device("cpu"))
        return {finding.rule for finding in findings}, stats["unique_graphs"] - before

    one, first = found(32)
    several, graphs = found(32, 48, 64)
    assert one == several == {"step-state"}
    assert graphs == first <= 4
    assert found(32, 128)[0] == {"step-state", "prints"}
