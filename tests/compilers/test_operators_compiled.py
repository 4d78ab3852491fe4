"""Foreign code inside blocks that Inductor compiled: what capturing alone does not show, such as memory that is used
again, strides, and calls that a compiler would drop."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import torch
from changes import Setup, conditioning, relative, sample, strengthen
from onediff_pack.patching.wrappers import KEY, OUTER_SAMPLE
from onediff_pack.proving.proof import Proof
from passthrough import one_thread
from sessions import compiled_clone, known, using
from torch._dynamo.utils import counters

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")

LONG = pytest.mark.skipif("ONEDIFF_TEST_ALL" not in os.environ, reason="takes minutes; scripts/test.py --all runs it")


class Foreign:
    """An override, a patch, and in a UNet a replacement of cross-attention, of the strength ``by``. The override gives
    tensors that it keeps, and writes into keys; the patch gives other strides and counts; the replacement gives a part
    of something larger."""

    def __init__(self, by: float):
        self.by, self.calls = by, 0
        self.kept: dict[tuple, torch.Tensor] = {}

    def override(self, func: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        k.mul_(self.by)
        result = func(q, k, v, *args, **kwargs)
        return self.kept.setdefault(result.shape, torch.empty_like(result)).copy_(result)

    def output_patch(self, x: torch.Tensor, extra_options: dict) -> torch.Tensor:
        self.calls += 1
        return (x * self.by).mT.contiguous().mT

    def replacement(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
        self.calls += 1
        return torch.cat([q * self.by, v.mean(1, keepdim=True)], 1)[:, : q.shape[1]]

    def put_on(self, setup: Setup) -> None:
        setup.model = setup.model.clone()
        setup.model.model_options["transformer_options"]["optimized_attention_override"] = self.override
        setup.model.set_model_attn1_output_patch(self.output_patch)
        for place in (("input", 1), ("output", 3)):
            setup.model.set_model_attn2_replace(self.replacement, *place)


@LONG
@pytest.mark.parametrize("model", ["flux", "unet"])
def test_one_compile_a_kind_of_block_and_the_same_pictures(model):
    import models

    patcher = getattr(models, f"{model}_patcher")()
    strengthen(patcher.model)
    with one_thread(), using(known(inductor=Proof(True, "works.", 0.0))):
        clone, session, record = compiled_clone(patcher, compile_seconds=math.inf)
        clone.add_wrapper_with_key(OUTER_SAMPLE, KEY, session.sampling)

        def both(by: float | None) -> tuple[float, int]:
            """How far the picture is from the uncompiled one, and the graphs that were captured so far."""
            ours, theirs = (Setup(one, conditioning(1), conditioning(2)) for one in (clone, patcher))
            foreign = [Foreign(by), Foreign(by)] if by is not None else []
            for one, setup in zip(foreign, (ours, theirs), strict=False):
                one.put_on(setup)
            difference = relative(sample(ours), sample(theirs))
            assert len({one.calls for one in foreign}) <= 1
            compile_ = record["compile"]
            assert compile_["regions_uncompiled"] == []
            assert (compile_["regions_compiled"], compile_["recompiles"]) == (compile_["regions"], [])
            return difference, counters["stats"]["unique_graphs"]

        assert both(None)[0] < 1e-5
        added, graphs = both(0.5)
        assert added < 1e-5
        for by in (0.9, None, 0.7):
            difference, now = both(by)
            assert (difference < 1e-5, now) == (True, graphs), by
