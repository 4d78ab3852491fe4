"""Every exact kernel that runs here gives PyTorch's attention's result, on the calls of every family of ComfyUI's."""

from __future__ import annotations

import pytest
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import find_sites, get_processor
from onediff_pack.processors.attention_patch import AttentionPatch, not_patchable_reason

families = pytest.importorskip(
    "families", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it"
)
pytestmark = pytest.mark.usefixtures("host")

#: ‖difference‖ / ‖result‖ of a model call in float32.
TOLERANCE = 1e-4


@pytest.mark.parametrize("family", families.some())
def test_kernels_keep_what_a_family_computes(family: str) -> None:
    described = families.FAMILIES[family]()
    patcher = described.patcher()
    call = families.Call(tokens=20)
    sites = [s for s in find_sites(patcher.model.diffusion_model) if not not_patchable_reason(s, get_processor("sdpa"))]
    if not sites:
        pytest.skip("this family passes no transformer_options to attention")
    plain = described.step(patcher, call)
    for name in ("sliced", "sdpa-math"):
        clone = patcher.clone()
        patch = AttentionPatch(sites, get_processor(name), lambda options: None)
        attach(clone, patch)
        result = described.step(clone, call)
        assert patch.calls.reached, f"{name} was not called"
        assert (result - plain).norm() <= TOLERANCE * plain.norm(), name
