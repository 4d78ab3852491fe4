"""Whatever another node puts on a compiled model takes effect, and is gone when it is taken off.

One compiled model goes through all of them, sampled by ComfyUI's own sampler: plain, changed, plain again; and the same
uncompiled. Many changes are made by ComfyUI's own nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from changes import CHANGES, Setup, conditioning, relative, sample, strengthen
from onediff_pack.patching.wrappers import KEY, OUTER_SAMPLE
from onediff_pack.status import Record
from passthrough import Passthrough, without_inductor
from sessions import compiled_clone

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")

#: Largest ‖difference‖ of equal pictures, as a part of what the change does to the picture.
TOLERANCE = 0.02


@dataclass
class Sitting:
    """A model, uncompiled and with OneDiff Compile's session, as they are before any change."""

    patcher: Any
    compiled: Any
    record: Record
    plain: torch.Tensor
    inductor: Passthrough

    def before(self) -> Setup:
        return Setup(self.compiled, conditioning(1), conditioning(2))

    def uncompiled(self) -> Setup:
        return Setup(self.patcher, conditioning(1), conditioning(2))


def sitting(model: str, inductor: Passthrough) -> Sitting:
    import models

    patcher = getattr(models, f"{model}_patcher")()
    strengthen(patcher.model)
    compiled, session, record = compiled_clone(patcher)
    compiled.add_wrapper_with_key(OUTER_SAMPLE, KEY, session.sampling)
    plain = sample(Setup(patcher, conditioning(1), conditioning(2)))
    return Sitting(patcher, compiled, record, plain, inductor)


@pytest.fixture(scope="module")
def sittings(host):
    with without_inductor() as inductor:
        yield {model: sitting(model, inductor) for model in ("unet", "flux")}


#: What reaches into a model's blocks, and what a change outside of them may be: on Flux too in an ordinary run. The
#: others do the same there as on a UNet.
ON_BOTH = ("attention override", "attention input patch", "attention output patch", "LoRA", "replaced module", "no CFG")


#: In an ordinary run tests/compilers/test_operators.py adds them and takes them away, as other nodes' code in a UNet.
IN_OPERATORS = ("attention output patch", "patch between attentions", "replaced attention")


def is_long(name: str, is_first: bool) -> bool:
    """Of a change on the first of its models, or on another one."""
    return name in IN_OPERATORS if is_first else name not in ON_BOTH


def cases() -> list[Any]:
    return [
        pytest.param(
            *(name, model),
            id=f"{model}: {name}",
            marks=[pytest.mark.long] if is_long(name, model == on[0]) else [],
        )
        for name, (_, on) in CHANGES.items()
        for model in on
    ]


@pytest.mark.parametrize(("name", "model"), cases())
def test_a_change_takes_effect_and_goes_again(name, model, sittings):
    sitting, make = sittings[model], CHANGES[name][0]
    uncompiled = sitting.uncompiled()
    make(uncompiled)
    expected = sample(uncompiled)
    uncompiled.restore()
    effect = relative(expected, sitting.plain)
    assert effect > 1e-5, "the change must show, or this test tells nothing"
    tolerance = TOLERANCE * effect

    assert relative(sample(sitting.before()), sitting.plain) <= tolerance
    changed = sitting.before()
    make(changed)
    assert relative(sample(changed), expected) <= tolerance
    assert relative(sample(changed), expected) <= tolerance, "a second time, with everything compiled"
    changed.restore()
    graphs, runs = sitting.inductor.graphs, sitting.inductor.runs
    assert relative(sample(sitting.before()), sitting.plain) <= tolerance, "without it the first picture comes again"
    assert sitting.inductor.graphs == graphs, "and nothing is compiled for that"
    assert sitting.inductor.runs > runs
    assert sitting.record["state"] == "compiled"
