"""Older versions of ComfyUI, each the real server: the example's result, compiled and by ComfyUI's own nodes alone.

Latents are compared: older versions load no VAE as small as that of the tests.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import SDPA, example, node_classes, start, without_ours
from onediff_pack.node_ids import COMPILE, PATCH_ATTENTION
from safetensors.torch import load_file, save_file

from scripts.console import CannotContinue
from scripts.environment import Environment
from scripts.host import PACKAGES, VERSION, ensure_host
from scripts.prompt import swap, to_prompt
from scripts.server import Server, error_of

OLDEST, *BETWEEN = (version for version in PACKAGES if version != VERSION)
OTHERS = [OLDEST, *(pytest.param(version, marks=pytest.mark.long) for version in BETWEEN)]
COMPILED: dict[str, dict[str, Any]] = {
    "OneDiffCompile": {"backend": "inductor", "keep_faster": False},
    "OneDiffPatchAttention": SDPA,
}
NO_VAE = "without_vae.safetensors"


@pytest.mark.parametrize("version", OTHERS)
def test_the_compiled_result_is_that_of_the_hosts_own_nodes(environment: Environment, version: str) -> None:
    try:
        folder = ensure_host(environment.cache, environment.python, environment.logs, version)
    except CannotContinue as reason:
        pytest.skip(str(reason))
    flags = ("--use-pytorch-cross-attention",)
    with start(replace(environment, host=folder), f"host-{version}", flags=flags) as server:
        assert server.get_json("/system_stats")["system"]["comfyui_version"] == version
        prompt = _without_a_vae(server)
        plain, _ = _latent(server, without_ours(prompt))
        compiled, records = _latent(server, prompt)
        chosen, by_auto = _latent(server, _with_auto(prompt))
    states = {node: record["state"] for node, record in records.items()}
    assert states == {
        "OneDiffPatchAttention": "patched",
        "OneDiffForwardCheck": "checked",
        "OneDiffCompile": "compiled",
    }
    assert records["OneDiffCompile"]["compile"]["regions_uncompiled"] == []
    assert plain.std() > 0.1
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-4)
    assert by_auto["OneDiffPatchAttention"]["patches"]["auto"]["state"] in ("no gain", "chosen")
    torch.testing.assert_close(chosen, plain, rtol=1e-3, atol=1e-4)


def _with_auto(prompt: dict[str, Any]) -> dict[str, Any]:
    """Patched by ``auto``, as the example is, and not compiled."""
    (patch,) = (key for key, node in prompt.items() if node["class_type"] == PATCH_ATTENTION)
    (last,) = (key for key, node in prompt.items() if node["class_type"] == COMPILE)
    inputs = {**prompt[patch]["inputs"], "processor": "auto"}
    nodes = {**prompt, patch: {**prompt[patch], "inputs": inputs}}
    del nodes[last]
    return {
        key: {**node, "inputs": {n: [patch, 0] if v == [last, 0] else v for n, v in node["inputs"].items()}}
        for key, node in nodes.items()
    }


def _without_a_vae(server: Server) -> dict[str, Any]:
    """The example for Flux, its latents saved. Its text encoders are those of the small SD 1.5."""
    small = load_file(server.base / "models" / "checkpoints" / "sd15_small.safetensors")
    kept = {name: tensor for name, tensor in small.items() if not name.startswith("first_stage_model.")}
    save_file(kept, server.base / "models" / "checkpoints" / NO_VAE)
    prompt = to_prompt(example("flux", server, steps=3, **COMPILED), node_classes(server))
    prompt = swap(prompt, "DualCLIPLoader", "CheckpointLoaderSimple", {"ckpt_name": NO_VAE}, {0: 1})
    (sampler,) = (key for key, node in prompt.items() if node["class_type"] == "KSampler")
    gone = ("VAEDecode", "VAELoader", "SaveImage", "PreviewImage")
    kept_nodes = {key: node for key, node in prompt.items() if node["class_type"] not in gone}
    save = {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": "latents/host"}}
    return {**kept_nodes, "save": save}


def _latent(server: Server, prompt: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    entry = server.run(prompt)
    assert error_of(entry) is None
    (file,) = entry["outputs"]["save"]["latents"]
    path: Path = server.base / "output" / file["subfolder"] / file["filename"]
    records = {
        prompt[key]["class_type"]: output["onediff"][0]
        for key, output in entry["outputs"].items()
        if "onediff" in output
    }
    return load_file(path)["latent_tensor"], records
