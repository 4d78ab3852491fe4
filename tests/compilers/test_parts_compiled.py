"""A VAE for pictures, one for video, a ControlNet and a ControlLoRA, compiled by the real Inductor: with ``--all``.

In an ordinary run the real Inductor compiles a VAE and a ControlLoRA on a server (``tests/e2e/test_vae.py``), and
Dynamo captures one of each kind (``test_vaes.py``, ``test_control_nets.py``)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator

import pytest
from onediff_pack.compilers import CallSession
from onediff_pack.proving.proof import Proof
from passthrough import one_thread
from sessions import known, using
from torch._dynamo.utils import counters

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
vaes, controls = importlib.import_module("vaes"), importlib.import_module("controls")

pytestmark = [pytest.mark.usefixtures("host"), pytest.mark.long]

TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _inductor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real one. One pair of runs is timed, and everything stays compiled, whatever it gains."""
    monkeypatch.setattr(CallSession, "seconds", 0.0)
    with one_thread(), using(known(inductor=Proof(True, "runs here.", 0.0))):
        yield


def compiled() -> int:
    return counters["inductor"]["fxgraph_cache_miss"] + counters["inductor"]["fxgraph_cache_hit"]


@pytest.mark.parametrize("name", ["TAESD", "SD", "Wan 2.1"])
def test_a_vae(name: str) -> None:
    vae = vaes.VAES[name]
    model = vae.model()
    session, record = vaes.session_on(model, backend="inductor", compile_seconds=math.inf)
    session.measuring.by_turns = False
    graphs = []
    for shape in vae.latents:
        given = vaes.numbers(shape)
        with vaes.torch.inference_mode():
            expected = model.decode(given.clone())
        for _ in range(2):
            with vaes.used(session, model) as run:
                result = run("decode", given.clone())
            assert ((result - expected).norm() / expected.norm()).item() <= TOLERANCE
        graphs.append(compiled())
    assert graphs[0] > 0 and graphs[2] == graphs[1]
    assert record["compile"]["graphs"] > 0
    assert record["parity"]["passed"]
    assert record["speed"]["compiled_ms"] > 0


@pytest.mark.parametrize("name", ["ControlNet", "ControlLoRA"])
def test_a_control_net(name: str) -> None:
    kind = controls.CONTROLS[name]
    control, base = kind.make(), kind.base()
    session, record = controls.session_on(control, backend="inductor", compile_seconds=math.inf)
    session.measuring.by_turns = False
    copied = controls.with_session(control, session)
    graphs = []
    for size in (16, 32, 24):
        for strength in (1.0, 0.5):
            result = controls.sampled(kind, base, [copied], size, strength=strength)
            expected = controls.sampled(kind, base, [control], size, strength=strength)
            assert controls.difference(result, expected) <= TOLERANCE
        graphs.append(compiled())
    assert graphs[0] > 0 and graphs[2] == graphs[1]
    assert record["state"] == "compiled"
    assert record["parity"]["passed"]
