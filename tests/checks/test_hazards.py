"""What the check says of graphs, against what torch.compile does."""

from __future__ import annotations

import gallery
import numpy
import pytest
import torch
from onediff_pack.checks.attached import check_attached
from onediff_pack.checks.graph.calls import calls_at
from onediff_pack.checks.mounted import mount
from onediff_pack.checks.rule import apply
from onediff_pack.processors import adapt, find_sites
from onediff_pack.processors.authored.make import make
from torch import nn

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")
gallery.load()
#: But for what could be compiled, in minutes.
WRONG = [n for n, wrong in gallery.WRONG.items() if wrong.file == "hazards.py" and "too-long" not in wrong.rules]


def compiles(subject):
    """Whether ten steps with and without a mask run in one graph each, as blocks are compiled."""
    calls = calls_at(subject)

    def entry(processor, arguments):
        return processor(*arguments)

    entry.__code__ = entry.__code__.replace(co_name=f"entry_{type(subject.module).__name__}")
    run = torch.compile(entry, backend="eager", fullgraph=True)
    try:
        with torch.inference_mode():
            for masked in (False, True):
                arguments = calls.arguments(masked=masked)
                for _ in range(10):
                    run(subject.processor, arguments)
    except Exception as error:
        assert type(error).__module__.startswith("torch."), error
        return False
    return True


@pytest.mark.parametrize("name", WRONG)
def test_what_runs_uncompiled_cannot_be_compiled_and_the_others_can(name):
    subject = mount(adapt(gallery.WRONG[name].cls()), gallery.site(), torch.float32, torch.device("cpu"))
    findings = apply("hazards", subject)
    assert findings and compiles(subject) == (not any(finding.uncompiled for finding in findings))
    assert not [finding for finding in findings if finding.severity == "error"], "it is used all the same"


@pytest.mark.parametrize("name", WRONG)
def test_the_mended_one_compiles(name):
    subject = mount(adapt(gallery.MENDED[name]()), gallery.site(), torch.float32, torch.device("cpu"))
    assert compiles(subject)


def test_there_are_enough():
    assert len(WRONG) >= 25


class LoudAndRandom(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        print("attention of", tuple(q.shape))  # noqa: T201
        return plain(q + torch.randn_like(q), k, v, heads, mask)


class LoudCounter(nn.Module):
    """Keeps its count where Python does not see that it changes."""

    def __init__(self):
        super().__init__()
        self.calls = numpy.zeros(1)

    def forward(self, q, k, v, heads, mask=None):
        print("attention of", tuple(q.shape))  # noqa: T201
        self.calls += 1
        return plain(q * (1 + float(self.calls[0]) / 10), k, v, heads, mask)


class Loud(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        print("attention of", tuple(q.shape))  # noqa: T201
        return plain(q, k, v, heads, mask)


def plain(q, k, v, heads, mask):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mask = mask[:, None] if mask is not None and mask.ndim == 3 else mask
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("cls", "can_be"), [(Loud, True), (LoudAndRandom, False), (LoudCounter, False)])
def test_what_gives_something_else_at_each_call_is_no_operator(cls, can_be):
    """A block's first compiled call is made twice: the picture would be another one."""
    import models

    processor = make("it", cls, "", "it.py")
    sites = find_sites(models.unet_patcher().model.diffusion_model)[:1]
    found = check_attached([(site, processor) for site in sites], torch.float32, torch.device("cpu"))
    assert "prints" in {finding.rule for finding in found}
    assert processor.as_operator is can_be
