"""OneDiff Compile VAE and OneDiff Compile ControlNet on the real server, over HTTP, with the real Inductor."""

from __future__ import annotations

from typing import Any

import pytest
from examples import example, run
from old_workflows import make_files, node, picture, plain

from scripts.server import PromptRefused, Server

CONTROL_NET = "OneDiffCompileControlNet"


@pytest.fixture(scope="module")
def server(sdpa_server: Server) -> Server:
    make_files(sdpa_server.base)
    return sdpa_server


def with_vae(prompt: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    """The prompt with its picture decoded by a compiled VAE."""
    given = {"vae": ["ckpt", 2], "backend": "auto", "if_unfit": "run uncompiled", **inputs}
    decode = node("VAEDecode", samples=["sampler", 0], vae=["vae", 0])
    return {**prompt, "vae": node("OneDiffCompileVAE", **given), "decode": decode}


def test_a_picture_is_decoded_and_the_record_says_what_became_of_it(server: Server) -> None:
    expected, _ = picture(server, plain())
    pixels, records = picture(server, with_vae(plain()))
    assert abs(pixels - expected).max() <= 1
    record = records["vae"]
    assert record["model"]["class"] == "AutoencoderKL"
    assert record["state"] in ("compiled", "partial", "uncompiled")
    assert record["backend"]["used"] == "inductor"
    assert record["compile"]["unit"] == record["speed"]["unit"] == "run"
    assert record["speed"]["eager_ms"] > 0
    gains_nothing = record["summary"].startswith("uncompiled: no gain")
    assert record["compile"]["graphs"] > 0 or gains_nothing, record["summary"]
    assert not record["unused"]
    # The same from the cache of nodes, with another picture, at the size that is known.
    again = with_vae(plain())
    again["sampler"]["inputs"]["seed"] = 4
    other = plain()
    other["sampler"]["inputs"]["seed"] = 4
    assert abs(picture(server, again)[0] - picture(server, other)[0]).max() <= 1


def test_values_of_another_version_refuse_no_prompt(server: Server) -> None:
    pixels, records = picture(server, with_vae(plain(), backend="later", if_unfit=5))
    assert abs(pixels - picture(server, plain())[0]).max() <= 1
    said = {finding["path"]: finding["what"] for finding in records["vae"]["check"]["findings"]}
    assert "5" in said["if_unfit"]
    assert "later" in said.get("backend", records["vae"]["backend"]["reason"])


def test_what_is_no_vae_is_refused_before_anything_runs(server: Server) -> None:
    """ComfyUI itself refuses a connection of another type."""
    with pytest.raises(PromptRefused, match="OneDiffCompileVAE: Return type mismatch"):
        server.run(with_vae(plain(), vae=["latent", 0]))


def test_a_control_net_acts_and_says_what_became_of_it(server: Server) -> None:
    prompt = plain(control=True)
    expected, _ = picture(server, prompt)
    net = node(CONTROL_NET, control_net=["net", 0], backend="auto", if_unfit="run uncompiled")
    apply = node("ControlNetApplyAdvanced", **{**prompt["apply"]["inputs"], "control_net": ["compiled", 0]})
    pixels, records = picture(server, {**prompt, "compiled": net, "apply": apply})
    assert abs(pixels - expected).max() <= 1
    record = records["compiled"]
    assert record["model"]["class"] == "ControlNet"
    assert record["backend"]["used"] == "inductor"
    gains_nothing = record["summary"].startswith("uncompiled: no gain")
    assert record["compile"]["graphs"] > 0 or gains_nothing, record["summary"]
    assert record["speed"]["eager_ms"] > 0
    assert not record["unused"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "part", "of"),
    [
        ("control", CONTROL_NET, "ControlNet"),
        ("vae", "OneDiffCompileVAE", "AutoencoderKL"),
        ("replaced", "OneDiffCompileVAE", "AutoencoderKL"),
    ],
)
def test_the_examples_make_a_picture_and_both_nodes_say_what_they_did(
    server: Server, name: str, part: str, of: str
) -> None:
    result = run(server, example(name, server))
    assert (result.error, len(result.pictures)) == (None, 1)
    assert result.records[part]["model"]["class"] == of
    for record in (result.records[part], result.records["OneDiffCompile"]):
        assert record["state"] in ("compiled", "partial", "uncompiled"), record["summary"]
        assert (record["unused"], record["check"]["errors"]) == (None, 0)
