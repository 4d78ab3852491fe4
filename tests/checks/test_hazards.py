"""What the check says of graphs, against what torch.compile does."""

from __future__ import annotations

import gallery
import pytest
import torch
from onediff_pack.checks.graph.calls import calls_at
from onediff_pack.checks.mounted import mount
from onediff_pack.checks.rule import apply
from onediff_pack.processors import adapt

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
