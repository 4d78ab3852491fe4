"""Each example workflow makes a picture on the real ComfyUI, with nothing red: with small stand-ins of the models.

On the server on which nothing new is compiled: what comes of compiling is seen of the first example, in
``test_workflows.py`` and ``test_canvas.py``, and of a processor of one's own in ``test_custom.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from examples import SDPA, example, run
from old_workflows import old_server

from scripts.checkpoints import standin
from scripts.environment import Environment
from scripts.server import Server, link_file

ROOT = Path(__file__).resolve().parents[2]
COMPILE, PATCH, REPORT = "OneDiffCompile", "OneDiffPatchAttention", "OneDiffSpeedReport"
STATES = ("compiled", "partial", "uncompiled")


@pytest.fixture(scope="module")
def server(environment: Environment, kept_server: Callable[..., Server]) -> Server:
    return kept_server("old", lambda: old_server(environment))


@pytest.fixture(scope="module")
def own(server: Server) -> Iterator[Server]:
    """A server with what the example of a processor of one's own says to do first."""
    file = server.base / "models" / "attention_processors" / "my_attention.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((ROOT / "docs" / "my_attention.py").read_bytes())
    yield server
    file.unlink()


def test_a_processor_of_ones_own(own: Server) -> None:
    result = run(own, example("own", own))
    assert (result.error, len(result.pictures)) == (None, 1)
    (patched, compiled) = (result.records[name] for name in (PATCH, COMPILE))
    assert {site["processor"] for site in patched["patches"]["sites"]} == {"custom/my_attention:MyAttention"}
    assert (patched["check"]["errors"], compiled["check"]["errors"]) == (0, 0)
    assert compiled["state"] in STATES and compiled["compile"]["regions"] > 0


def test_before_the_file_is_there_the_picture_is_made_and_what_is_missing_is_said(own: Server) -> None:
    file = own.base / "models" / "attention_processors" / "my_attention.py"
    content = file.read_bytes()
    file.unlink()
    try:
        result = run(own, example("own", own, KSampler={"seed": 2}))
    finally:
        file.write_bytes(content)
    assert (result.error, len(result.pictures)) == (None, 1)
    assert {site["processor"] for site in result.records[PATCH]["patches"]["sites"]} == {"sdpa"}
    assert "my_attention" in result.records[PATCH]["check"]["findings"][0]["what"]


def test_compile_alone(own: Server) -> None:
    result = run(own, example("alone", own))
    assert (result.error, len(result.pictures)) == (None, 1)
    assert result.records[COMPILE]["state"] in STATES
    assert result.records[COMPILE]["compile"]["regions"] > 0


def test_the_speed_report_is_a_picture(own: Server) -> None:
    result = run(own, example("report", own, steps=2, OneDiffPatchAttention=SDPA))
    assert (result.error, {picture.shape for picture in result.pictures}) == (None, {(675, 1200, 3)})
    assert result.records[REPORT]["speed"]["without_ms"] > 0


@pytest.mark.long
def test_the_example_for_sdxl_on_a_model_of_that_class(own: Server, environment: Environment) -> None:
    name = "sdxl_narrow.safetensors"
    link_file(standin(environment, "sdxl_narrow"), own.base / "models" / "checkpoints" / name)
    result = run(own, example("sdxl", own, CheckpointLoaderSimple={"ckpt_name": name}))
    assert (result.error, len(result.pictures)) == (None, 1)
    assert len(result.records[PATCH]["patches"]["sites"]) > 0 or result.records[PATCH]["patches"]["auto"]
    assert result.records[COMPILE]["state"] in STATES
    assert result.records[COMPILE]["compile"]["regions"] > 50, "SDXL's depth"
