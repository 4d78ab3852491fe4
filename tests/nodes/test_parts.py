"""OneDiff Compile VAE and OneDiff Compile ControlNet: what they make of any input."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
import torch
from onediff_pack.compilers.session.failures import ModelUnfit
from onediff_pack.proving.proof import Proof
from sessions import known

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
vaes, controls = importlib.import_module("vaes"), importlib.import_module("controls")

pytestmark = pytest.mark.usefixtures("host")

ODD: dict[str, Any] = {"a number": 5, "none": None, "a list": ["all"], "another one": "later", "long": "x" * 5000}


@pytest.fixture(autouse=True)
def _no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    from onediff_pack.host.copies import sessions

    monkeypatch.setattr(sessions, "PROOFS", known(inductor=Proof(True, "stands in.", 0.0)))


def execute(kind: str, **inputs: Any) -> tuple[Any, dict[str, Any]]:
    """Runs a node as ComfyUI does: its output, and its record."""
    from comfy_api.latest import io
    from onediff_pack.nodes.compile_control_net import OneDiffCompileControlNet
    from onediff_pack.nodes.compile_vae import OneDiffCompileVAE

    node: Any = OneDiffCompileVAE if kind == "vae" else OneDiffCompileControlNet
    hidden = {io.Hidden.unique_id: "7", io.Hidden.extra_pnginfo: None}
    given = {"backend": "auto", "if_unfit": "run uncompiled", **inputs}
    assert node.validate_inputs(**given) is True
    with torch.inference_mode():
        output = node.PREPARE_CLASS_CLONE({"hidden_inputs": hidden}).execute(**given)
    return output.args[0], json.loads(json.dumps(output.ui["onediff"][0], allow_nan=False))


PARTS = {
    "vae": vaes.small_vae,
    "control_net": controls.CONTROLS["ControlNet"].make,
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_copy_is_handed_on_that_is_to_be_compiled(kind):
    part = PARTS[kind]()
    copied, record = execute(kind, **{kind: part})
    assert copied is not part and isinstance(copied, type(part))
    assert record["state"] == "idle" and record["summary"].endswith("blocks to compile at the first use")
    assert record["check"]["errors"] == 0 and record["check"]["findings"] == []
    assert record["model"]["parameters"] > 0


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("name", ["backend", "if_unfit"])
def test_an_odd_value_is_said_and_the_part_goes_on(kind, name):
    part = PARTS[kind]()
    for odd, value in ODD.items():
        copied, record = execute(kind, **{kind: part, name: value})
        assert isinstance(copied, type(part)), odd
        said = [finding["what"] for finding in record["check"]["findings"] if finding["path"] == name]
        reason = record["backend"]["reason"]
        assert len(said) == 1 or (name == "backend" and odd == "another one" and "later" in reason), odd


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("value", [None, 5, "a name", torch.zeros(2)])
def test_what_is_none_ends_the_run_with_what_to_do(kind, value):
    with pytest.raises(ValueError, match=rf"OneDiff Compile .* \(node 7\): {kind} is .*Connect a node that loads one"):
        execute(kind, **{kind: value})


def test_a_vae_without_weights_is_handed_on_and_comfyui_says_what_is_wrong_with_it():
    vae = vaes.small_vae()
    vae.first_stage_model = None
    copied, _ = execute("vae", vae=vae)
    with pytest.raises(RuntimeError, match="VAE is invalid"):
        copied.decode(torch.zeros(1, 4, 8, 8))


def test_another_node_behind_it_takes_over():
    first, record = execute("vae", vae=vaes.small_vae())
    second, _ = execute("vae", vae=first)
    assert type(second) is type(first)
    from onediff_pack.host.copies.vae import session_of

    assert session_of(first).replaced_by == "7"
    assert record["state"] == "idle"


class Shy(torch.nn.Module):
    """Another pack's, whose parameters nobody may see."""

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        raise LookupError("nothing to see here")

    def decode(self, z: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return z.new_zeros(1, 3, 32, 32)


def shy_vae() -> Any:
    vae = vaes.small_vae()
    vae.first_stage_model = Shy()
    return vae


def shy_control() -> Any:
    control = controls.CONTROLS["ControlNet"].make()
    control.control_model = Shy()
    return control


@pytest.mark.parametrize(("kind", "make"), [("vae", shy_vae), ("control_net", shy_control)])
def test_one_that_raises_when_it_is_looked_at_goes_on_uncompiled(kind, make):
    part = make()
    copied, record = execute(kind, **{kind: part})
    assert isinstance(copied, type(part))
    assert record["state"] == "uncompiled" and "nothing to see here" in record["summary"], record["summary"]
    if kind == "vae":
        assert copied.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 32, 32, 3)
    with pytest.raises(ModelUnfit, match="nothing to see here"):
        execute(kind, **{kind: part, "if_unfit": "stop"})


def test_cancel_while_it_is_looked_at_ends_the_run(monkeypatch):
    from onediff_pack.host.prompt_ends import CANCEL

    def cancelled(*args: Any, **kwargs: Any) -> Any:
        raise CANCEL.error

    monkeypatch.setattr(Shy, "named_modules", cancelled)
    with pytest.raises(CANCEL.error):
        execute("vae", vae=shy_vae())


def test_a_vae_whose_model_is_no_module_is_handed_on_as_it_is():
    class Remote:
        def decode(self, z: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return z.new_zeros(1, 3, 32, 32)

    vae = vaes.small_vae()
    vae.first_stage_model, vae.patcher = Remote(), None
    given, record = execute("vae", vae=vae)
    assert given is vae
    assert record["summary"] == "uncompiled: its model is no PyTorch module."
    with pytest.raises(ModelUnfit, match="no PyTorch module"):
        execute("vae", vae=vae, if_unfit="stop")
