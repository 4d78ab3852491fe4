"""Workflows made with OneDiff's own nodes, over HTTP on the real ComfyUI: the picture is that of the plain graph.

On this server nothing new is compiled (``ONEDIFF_COMPILE_SECONDS=0``), so the pictures are equal to the last bit; one
test compiles.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from old_workflows import (
    SHARED,
    Case,
    cases,
    equal_to_plain,
    names_larger_classes,
    node,
    old_server,
    picture,
    plain,
    same_pictures,
    shared_files,
    small,
    with_small_models,
)

from scripts.environment import Environment
from scripts.server import PromptRefused, Server, error_of

CASES = {case.name: case for case in cases()}
#: Files in the format of the API; test_old_nodes.py has the editor's.
API = [file.name for file in shared_files() if "nodes" not in json.loads(file.read_text())]


@pytest.fixture(scope="module")
def server(environment: Environment, kept_server: Callable[..., Server]) -> Server:
    return kept_server("old", lambda: old_server(environment))


def test_there_is_a_case_for_every_id():
    published = json.loads((Path(__file__).parents[1] / "nodes" / "published.json").read_text(encoding="utf-8"))
    old = {name for name, one in published.items() if not any("required" in spec for spec in one["inputs"].values())}
    assert {case.id for case in CASES.values()} == old - {"UNETLoaderInt8"}


#: By whether a ControlNet is in it: each is made once.
_PLAIN: dict[bool, Any] = {}


#: The same id with the inputs of another version; how inputs are read is tested in tests/nodes/test_migration.py.
OTHER_VERSIONS = {
    *("SVDSpeedup v1", "Nexfort v1", "VaeSpeedup v1", "VaeSpeedup v2", "ControlnetSpeedup v1", "ControlNet loader v1"),
    *("ShowImageDiff v1", "Loader v1"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in OTHER_VERSIONS else []) for name in CASES]
)
def test_the_picture_is_that_of_the_plain_graph(server: Server, name: str):
    case: Case = CASES[name]
    if case.control not in _PLAIN:
        _PLAIN[case.control], _ = picture(server, case.plain)
    expected = _PLAIN[case.control]
    pixels, records = picture(server, case.prompt)
    same_pictures({"picture": pixels}, {"picture": expected}, records)
    record = records["old"]
    assert any(one["approximate"] for one in records.values()) == ("DeepCache" in name)
    assert record["state"] != "failed"
    assert case.says in record["summary"]


def test_an_int8_model_ends_in_a_clear_error(server: Server):
    prompt = {**plain(), "old": node("UNETLoaderInt8", model_path="sdxl")}
    prompt["sampler"]["inputs"]["model"] = ["old", 0]
    error = error_of(server.run(prompt))
    assert error is not None
    assert error.startswith("UNETLoaderInt8: UNET Loader Int8 (node old): int8 models of OneDiff Enterprise")
    assert "Load Diffusion Model" in error


def test_values_of_any_kind_refuse_no_prompt(server: Server):
    """What the host would refuse, or take for a link, is put aside before; the record says what is used."""
    sampler = plain()["sampler"]["inputs"]
    odd: dict[str, Any] = {"cfg": "many", "bits": "x", "overwrite": 5, "conv_mse_threshold": None, "static_mode": ["a"]}
    prompt = {**plain(), "old": node("QuantKSampler", **{**sampler, **odd, "steps": 10**9, "denoise": ["b", 0]})}
    prompt["old"]["inputs"]["steps"] = -5
    prompt["decode"]["inputs"]["samples"] = ["old", 0]
    _, records = picture(server, prompt)
    said = {finding["path"]: finding["what"] for finding in records["old"]["check"]["findings"]}
    assert said["cfg"] == "cfg 'many' cannot be used here; 8.0 is used instead"
    assert said["steps"] == "steps -5 cannot be used here; 1 is used instead"
    assert said["denoise"] == "denoise ['b', 0] cannot be used here; 1.0 is used instead"

    prompt = {**plain(), "old": node("ModelSpeedup", model=["ckpt", 0], inplace="maybe", static_mode=3, more="x")}
    prompt["sampler"]["inputs"]["model"] = ["old", 0]
    _, records = picture(server, prompt)
    assert [f["path"] for f in records["old"]["check"]["findings"] if "static_mode 3" in f["what"]] == ["static_mode"]

    missing = {**plain(), "old": node("OneDiffCheckpointLoaderSimple", ckpt_name="gone.safetensors")}
    missing["sampler"]["inputs"]["model"] = ["old", 0]
    assert "'gone.safetensors' is not in models/checkpoints" in str(error_of(server.run(missing)))


def given(name: str) -> str:
    return (SHARED / name).read_text(encoding="utf-8")


@pytest.mark.skipif(not SHARED.is_dir(), reason="OneDiff's own workflow files are not beside the repository")
@pytest.mark.parametrize("name", API)
def test_a_file_that_onediffs_users_were_given_runs(server: Server, name: str):
    prompt = small(with_small_models(given(name)))
    if name.startswith("ipadapter"):
        with pytest.raises(PromptRefused) as refused:
            server.run(prompt)
        assert "IPAdapter" in str(refused.value) and "OneDiff" not in str(refused.value)
        return
    equal_to_plain(server, prompt)


@pytest.mark.long
@pytest.mark.skipif(not SHARED.is_dir(), reason="OneDiff's own workflow files are not beside the repository")
@pytest.mark.parametrize("name", [name for name in API if names_larger_classes(given(name))])
def test_a_file_for_sdxl_runs_on_a_model_of_that_class(server: Server, name: str):
    equal_to_plain(server, small(with_small_models(given(name), own_class=True)))
