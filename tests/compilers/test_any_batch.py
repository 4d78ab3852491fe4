"""One graph for every batch with Inductor itself: capture alone does not show what becomes of a size that the compiler
does not know."""

from __future__ import annotations

import importlib

import pytest
import sessions
import torch
from onediff_pack.proving.proof import Proof

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
families = importlib.import_module("families")
Call = families.Call
pytestmark = [pytest.mark.usefixtures("host"), pytest.mark.long]

ALL = 1e12  # bytes of weights on the device: more than any of the models has

CALLS = (Call(batch=1), Call(batch=2), Call(batch=4), Call(batch=1, height=32), Call(batch=2, tokens=154))


#: One of each way in which the batch enters a graph: convolutions, ComfyUI's attention under an override and without,
#: masks, prompts with and without one, several of the first dimension for each picture.
NAMES = ("SD 1.5", "Flux", "Wan 2.1", "LTXV", "Qwen-Image", "ERNIE-Image", "Hunyuan DiT", "Krea 2")


@pytest.mark.parametrize("name", NAMES)
def test_batches_sizes_and_prompts_share_what_the_first_picture_compiled(name):
    family = families.FAMILIES[name]()
    with torch.inference_mode():
        patcher = family.patcher()
        patcher.partially_load(torch.device("cpu"), ALL)
    with sessions.using(sessions.known(inductor=Proof(True, "stands in.", 0.0))):
        clone, session, record = sessions.compiled_clone(patcher, compile_seconds=float("inf"))
        session.measuring.by_turns = False
        for call in CALLS:
            results = session.sampling(lambda call=call: [family.step(clone, call) for _ in range(3)])
            for result in results:
                torch.testing.assert_close(result, family.step(patcher, call), rtol=1e-4, atol=1e-5)
            compiled = record["compile"]
            kinds = {block.signature for block in session.blocks if block.parity is not None}
            assert (compiled["graphs"], compiled["recompiles"]) == (len(kinds), [])
            assert compiled["regions_compiled"] == compiled["regions"]
