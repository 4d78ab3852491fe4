"""ComfyUI's whole list of model families: the check finds nothing wrong with any, and calling them works."""

from __future__ import annotations

import importlib
import time
from types import SimpleNamespace

import pytest
import torch
from onediff_pack.checks import check_model
from onediff_pack.checks.reaching.reach import reach

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
families, supported = importlib.import_module("families"), importlib.import_module("supported")
pytestmark = pytest.mark.usefixtures("host")

#: Families that need something of a checkpoint before there is a model, and what.
NOT_BUILT = {
    "Stable_Zero123": "cc_projection.weight",
    "StableAudio": "NumberConditioner",
    "StableAudio3": "timestep_features_type",
    "ACEStep15": "meta tensors",
}

#: Stand-ins whose run on fake tensors does not come to its end, and why.
NOT_CALLED = {"HiDream": "nonzero"}  # its experts are chosen by values


def as_patcher(model):
    return SimpleNamespace(model=model, object_patches={})


@pytest.fixture(scope="module")
def built():
    return supported.everything()


def test_all_but_the_listed_families_are_built(built):
    missing = {entry.name: entry.reason for entry in built if entry.model is None}
    assert missing.keys() == NOT_BUILT.keys()
    for name, words in NOT_BUILT.items():
        assert words in missing[name]
    assert len(built) - len(missing) >= 94


def test_nothing_is_wrong_with_any_family(built):
    from onediff_pack.host.example_inputs import find_reach

    found = {}
    for entry in built:
        if entry.model is not None:
            report = check_model(entry.model.diffusion_model, 0, find_reach=find_reach(as_patcher(entry.model)))
            assert report.modules > 10
            found |= {entry.name: [str(finding) for finding in report.findings]} if report.findings else {}
    assert found == {}


@pytest.mark.parametrize("name", families.some(ordinary=(*families.ORDINARY, *NOT_CALLED)))
def test_every_stand_in_can_be_called_on_fake_tensors(name):
    from onediff_pack.host.example_inputs import example_calls

    model = families.FAMILIES[name]().patcher().model
    with torch.inference_mode():
        found = reach(model, example_calls())
    if name in NOT_CALLED:
        assert NOT_CALLED[name] in found.reason
        return
    assert found.reason is None
    leaves = [path for path, module in model.diffusion_model.named_modules() if not any(module.children())]
    called = sum(f"diffusion_model.{path}" in found.called for path in leaves)
    assert called > 0.6 * len(leaves)


@pytest.mark.parametrize(
    ("operations", "stored", "computed"),
    [("manual_cast", torch.float16, torch.float32), ("fp8_ops", torch.float8_e4m3fn, torch.bfloat16)],
)
def test_weights_that_the_host_casts_while_it_runs_do(operations, stored, computed):
    import comfy.ops
    from onediff_pack.host.example_inputs import example_calls

    config = families.FAMILIES["Flux"]().config({**families.FAMILIES["Flux"]().unet, "dtype": stored})
    config.custom_operations = getattr(comfy.ops, operations)
    config.manual_cast_dtype = computed
    model = config.get_model({})
    assert reach(model, example_calls(), dtype=model.get_dtype_inference()).complete


SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_linear_in_transformer": True,
    "use_temporal_attention": False,
    "context_dim": 2048,
}


def test_a_full_size_sdxl_is_checked_in_time_also_when_it_must_be_called():
    import comfy.supported_models
    from onediff_pack.host.example_inputs import find_reach

    model = supported.model_of(comfy.supported_models.SDXL, SDXL)
    assert sum(parameter.numel() for parameter in model.diffusion_model.parameters()) > 2.5e9
    start = time.process_time()
    assert check_model(model.diffusion_model, 0, find_reach=find_reach(as_patcher(model))).findings == ()
    assert time.process_time() - start < 3

    path = "middle_block.1.transformer_blocks.3.ff.net.1"
    model.diffusion_model.set_submodule(path, torch.nn.Module())
    start = time.process_time()
    (finding,) = check_model(model.diffusion_model, 0, find_reach=find_reach(as_patcher(model))).findings
    assert time.process_time() - start < 4
    assert (finding.path, finding.severity) == (path, "error")
    assert "read in" not in finding.why


@pytest.mark.parametrize("name", families.some())
def test_sdpa_at_every_site_gives_comfyuis_own_picture(name):
    from onediff_pack.patching.wrappers import attach
    from onediff_pack.processors import find_sites, get_processor
    from onediff_pack.processors.attention_patch import AttentionPatch, not_patchable_reason

    family = families.FAMILIES[name]()
    plain, sdpa = family.patcher(), get_processor("sdpa")
    patched = plain.clone()
    sites = [s for s in find_sites(plain.model.diffusion_model) if not_patchable_reason(s, sdpa) is None]
    attach(patched, AttentionPatch(sites, sdpa, lambda options: None))
    torch.testing.assert_close(family.step(patched, families.Call()), family.step(plain, families.Call()))
