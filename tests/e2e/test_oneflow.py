"""The example workflows on the real server with OneFlow; and with a OneFlow that ends its process."""

from __future__ import annotations

import sys
import time

import pytest
from examples import bypass, example, run, start
from onediff_pack.compilers.oneflow import libraries

#: What is compiled of each model, and how many of its parts. Attention alone is cheapest; Flux's is not a module.
SCOPES = {"sd15": ("attention", 14), "flux": ("blocks", 6)}


@pytest.fixture(scope="module")
def oneflow_server(environment):
    why = libraries.why_absent()
    if why:
        pytest.skip(why)
    variables = {"OMP_NUM_THREADS": "1"}
    with start(environment, "oneflow", flags=["--use-pytorch-cross-attention"], variables=variables) as server:
        yield server


@pytest.mark.parametrize("model", list(SCOPES))
def test_the_example_runs_in_oneflow_and_its_picture_is_the_same(oneflow_server, model):
    scope, regions = SCOPES[model]
    chosen = {"backend": "oneflow", "scope": scope, "keep_faster": False}
    workflow = bypass(example(model, oneflow_server, steps=4, OneDiffCompile=chosen), "OneDiffPatchAttention")
    compiled = run(oneflow_server, workflow)
    assert compiled.error is None
    record = compiled.records["OneDiffCompile"]
    assert record["backend"]["used"] == "oneflow", record["backend"]["reason"]
    assert record["backend"]["version"] == "0.9.0"
    assert record["compile"]["regions_uncompiled"] == []
    assert record["compile"]["regions_compiled"] == regions
    assert record["compile"]["graphs"] > 0
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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_backend_that_ends_its_process_leaves_the_server_and_the_picture(environment, tmp_path):
    (tmp_path / "oneflow").mkdir()
    (tmp_path / "oneflow" / "__init__.py").write_text("import ctypes; ctypes.string_at(0)")
    variables = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    flags = ["--use-pytorch-cross-attention"]
    with start(environment, "broken-oneflow", flags=flags, variables=variables) as server:
        workflow = example("sd15", server, steps=3, OneDiffCompile={"backend": "oneflow", "scope": "attention"})
        result = run(server, bypass(workflow, "OneDiffPatchAttention"))
        assert result.error is None
        assert len(result.pictures) == 1
        backend = result.records["OneDiffCompile"]["backend"]
        assert (backend["requested"], backend["used"]) == ("oneflow", "inductor")
        row = next(r for r in server.get_json("/onediff/backends", timeout=100)["backends"] if r["name"] == "oneflow")
        assert not row["available"]
        assert row["reason"].startswith("it ended its process while loading oneflow (SIGSEGV).")
