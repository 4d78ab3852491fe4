"""The example workflows on the real server with OneFlow."""

from __future__ import annotations

import itertools
import signal
import time

import pytest
import torch
from examples import bypass, example, run, start
from onediff_pack.compilers.backends.oneflow import libraries
from safetensors.torch import load_file, save_file

#: How many blocks each model has.
REGIONS = {"sd15": 15, "flux": 6}


@pytest.fixture(scope="module")
def oneflow_server(environment):
    why = libraries.why_absent()
    if why:
        pytest.skip(why)
    variables = {"OMP_NUM_THREADS": "1"}
    with start(environment, "oneflow", flags=["--use-pytorch-cross-attention"], variables=variables) as server:
        yield server


@pytest.mark.parametrize("model", list(REGIONS))
def test_the_example_runs_in_oneflow_and_its_picture_is_the_same(oneflow_server, model):
    regions = REGIONS[model]
    chosen = {"backend": "oneflow", "scope": "blocks", "keep_faster": False}
    workflow = bypass(example(model, oneflow_server, steps=4, OneDiffCompile=chosen), "OneDiffPatchAttention")
    compiled = run(oneflow_server, workflow)
    assert compiled.error is None
    record = compiled.records["OneDiffCompile"]
    assert record["backend"]["used"] == "oneflow", record["backend"]["reason"]
    assert record["backend"]["version"] == "0.9.0"
    assert record["compile"]["regions_uncompiled"] == []
    assert record["compile"]["regions_compiled"] == regions
    assert record["compile"]["graphs"] > 0
    assert record["compile"]["runs"] >= regions, "each region ran in OneFlow at least once"
    assert 0 < record["parity"]["relative"] <= 1e-4
    (picture,), (expected,) = compiled.pictures, run(oneflow_server, bypass(workflow, "OneDiffCompile")).pictures
    assert picture.std() > 1, "the picture is flat, so equality would prove nothing"
    assert abs(picture - expected).max() <= 1


def test_the_proof_is_kept_and_comes_at_once(oneflow_server):
    def oneflow():
        rows = oneflow_server.get_json("/onediff/backends", timeout=200)["backends"]
        return next(row for row in rows if row["name"] == "oneflow")

    row = oneflow()
    assert row["available"], row["reason"]
    assert row["version"] == "0.9.0"
    started = time.monotonic()
    assert oneflow() == row
    assert time.monotonic() - started < 0.5
    assert (oneflow_server.base / "user" / "__onediff" / "proofs.json").is_file()


def test_a_lora_its_strength_and_its_removal_change_the_picture_as_uncompiled(oneflow_server, environment):
    path = oneflow_server.base / "models" / "loras" / "noise.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(lora_for(load_file(oneflow_server.base / "models" / "checkpoints" / "sd15_small.safetensors")), path)
    chosen = {"backend": "oneflow", "scope": "attention", "keep_faster": False}
    workflow = bypass(example("sd15", oneflow_server, steps=3, OneDiffCompile=chosen), "OneDiffPatchAttention")
    pictures = []
    for lora in (("noise.safetensors", 1.0), ("noise.safetensors", 0.4), None):
        compiled = run(oneflow_server, workflow, lora=lora)
        assert compiled.error is None
        record = compiled.records["OneDiffCompile"]
        assert record["backend"]["used"] == "oneflow", record["backend"]["reason"]
        assert record["compile"]["regions_uncompiled"] == []
        assert record["compile"]["runs"] >= record["compile"]["regions"]
        (expected,) = run(oneflow_server, bypass(workflow, "OneDiffCompile"), lora=lora).pictures
        assert abs(compiled.pictures[0] - expected).max() <= 1
        pictures.append(expected)
    for one, other in itertools.combinations(pictures, 2):
        assert abs(one - other).max() > 5, "the LoRA does not show, so equality would prove nothing"


def test_comfyui_ends_without_a_crash(oneflow_server):
    """The last one: the server is gone after it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        pytest.skip("this process and its children ignore Ctrl+C")
    oneflow_server.process.send_signal(signal.SIGINT)
    assert oneflow_server.process.wait(60) == 0


def lora_for(checkpoint, rank=4):
    """Random changes of the attention's values and outputs, of about their own size."""
    torch.manual_seed(3)
    weights = {}
    for name, weight in checkpoint.items():
        if name.startswith("model.diffusion_model.") and name.endswith(("to_v.weight", "to_out.0.weight")):
            key = name.removeprefix("model.").removesuffix(".weight")
            weights[f"{key}.lora_up.weight"] = torch.randn(weight.shape[0], rank) * weight.std().item()
            weights[f"{key}.lora_down.weight"] = torch.randn(rank, weight.shape[1]) * rank**-0.5
    return weights
