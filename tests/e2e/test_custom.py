"""The user's own processor files on the real server: listed, checked, compiled, edited while it runs, and broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import bypass, example, run, start

from scripts.environment import Environment
from scripts.server import Server

KEEP = {"keep_faster": False}

ATTENTION = """
    def {method}(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        out = attn.batch_to_head_dim(attn.get_attention_scores(q, k, mask) @ v)
        return attn.to_out[1](attn.to_out[0](out)) * {factor}
"""

CALLED = "from torch import nn\n\n\nclass Called(nn.Module):" + ATTENTION.format(method="__call__", factor=1)
PLAIN = "\n\nclass Plain:" + ATTENTION.format(method="__call__", factor=1)
BARE = "\n\nclass Bare(nn.Module):" + ATTENTION.format(method="foward", factor=1)
KERNEL = """

from torch.nn.functional import scaled_dot_product_attention


class Kernel(nn.Module):
    def forward(self, q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False):
        if not skip_reshape:
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if mask is not None and mask.ndim == 3:
            mask = mask.unsqueeze(1)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)
"""


LONG = pytest.mark.long


@pytest.fixture(scope="module")
def folder(environment: Environment) -> Path:
    path = environment.cache / "e2e" / "custom" / "models" / "attention_processors"
    path.mkdir(parents=True, exist_ok=True)
    for file in path.rglob("*.py"):
        file.unlink()
    (path / "mine.py").write_text(CALLED + PLAIN + BARE + KERNEL)
    return path


@pytest.fixture(scope="module")
def own_server(environment: Environment, folder: Path) -> Iterator[Server]:
    with start(environment, "custom") as running:
        yield running


def options(server: Server) -> list[str]:
    """What the node's list of processors holds after the editor's “refresh node definitions”."""
    info = server.get_json("/object_info/OneDiffPatchAttention")
    return info["OneDiffPatchAttention"]["input"]["required"]["processor"][1]["options"]


def with_processor(server: Server, name: str, model: str = "sd15", **changes):
    return example(model, server, steps=4, OneDiffPatchAttention={"processor": name}, OneDiffCompile=KEEP, **changes)


@pytest.mark.parametrize(
    "cls", [*(pytest.param(name, marks=pytest.mark.long) for name in ("Called", "Plain")), "Kernel"]
)
def test_it_runs_compiled_and_equal_to_uncompiled(own_server, cls):
    workflow = with_processor(own_server, f"custom/mine:{cls}")
    compiled = run(own_server, workflow)
    record, patched = compiled.records["OneDiffCompile"], compiled.records["OneDiffPatchAttention"]
    assert record["state"] == "compiled", record["summary"]
    assert record["compile"]["regions_uncompiled"] == []
    assert {site["processor"] for site in patched["patches"]["sites"]} == {f"custom/mine:{cls}"}
    assert [f["rule"] for f in patched["check"]["findings"]] == ([] if cls == "Kernel" else ["call-instead-of-forward"])
    (picture,) = compiled.pictures
    (uncompiled,) = run(own_server, bypass(workflow, "OneDiffCompile")).pictures
    (sdpa,) = run(own_server, bypass(with_processor(own_server, "sdpa"), "OneDiffCompile")).pictures
    assert picture.std() > 1
    assert abs(picture - uncompiled).max() <= 1
    assert abs(picture - sdpa).max() <= 1


def test_without_a_usable_forward_it_is_said_and_the_picture_is_finished(own_server):
    workflow = with_processor(own_server, "custom/mine:Bare")
    compiled = run(own_server, workflow)
    assert compiled.error is None
    assert compiled.records["OneDiffCompile"]["state"] == "compiled"
    findings = compiled.records["OneDiffPatchAttention"]["check"]["findings"]
    assert [(f["severity"], f["rule"]) for f in findings][:1] == [("error", "no-forward")]
    assert findings[0]["where"] == f"models/attention_processors/mine.py:{line_of(CALLED + PLAIN + BARE, 'class Bare')}"
    assert "sdpa is, so that the picture is finished" in findings[-1]["what"]
    (sdpa,) = run(own_server, bypass(with_processor(own_server, "sdpa"), "OneDiffCompile")).pictures
    assert abs(compiled.pictures[0] - sdpa).max() <= 1


def test_a_kernel_runs_in_flux_too(own_server):
    compiled = run(own_server, with_processor(own_server, "custom/mine:Kernel", "flux"))
    assert compiled.records["OneDiffCompile"]["state"] == "compiled"
    assert len(compiled.records["OneDiffPatchAttention"]["patches"]["sites"]) == 6


def test_files_are_listed_edited_broken_and_mended_without_a_restart(own_server, folder):
    mine = [f"custom/mine:{name}" for name in ("Called", "Plain", "Bare", "Kernel")]
    assert options(own_server)[:2] == ["auto", "sdpa"]
    assert [name for name in options(own_server) if name.startswith("custom/")] == mine
    assert "diffusers/AttnProcessor2_0" in options(own_server)
    file = folder / "edited.py"
    head = "from torch import nn\n\n\nclass Edited(nn.Module):"
    file.write_text(head + ATTENTION.format(method="forward", factor=1))
    assert "custom/edited:Edited" in options(own_server)
    workflow = bypass(with_processor(own_server, "custom/edited:Edited"), "OneDiffCompile")
    (first,) = run(own_server, workflow).pictures
    file.write_text(head + ATTENTION.format(method="forward", factor=2))
    (second,) = run(own_server, workflow).pictures
    assert abs(second - first).max() > 1, "the edit is in the picture"
    file.write_text("class Edited(nn.Module)\n")
    broken = run(own_server, workflow)
    assert broken.error is None
    (finding,) = broken.records["OneDiffPatchAttention"]["check"]["findings"]
    assert finding["where"] == "models/attention_processors/edited.py:1"
    assert finding["what"] == "custom/edited:Edited cannot be loaded; sdpa is used instead"
    assert finding["why"] == "SyntaxError: expected ':'."
    file.write_text(head + ATTENTION.format(method="forward", factor=1))
    again = run(own_server, workflow)
    assert again.records["OneDiffPatchAttention"]["check"]["findings"] == []
    assert (again.pictures[0] == first).all()
    file.unlink()
    gone = run(own_server, workflow)
    (finding,) = gone.records["OneDiffPatchAttention"]["check"]["findings"]
    assert "is not among the classes in models/attention_processors" in finding["what"]


def test_diffusers_own_compute_the_same_picture(own_server):
    result = run(own_server, with_processor(own_server, "diffusers/AttnProcessor2_0"))
    assert result.records["OneDiffCompile"]["state"] == "compiled", result.records["OneDiffCompile"]["summary"]
    (sdpa,) = run(own_server, bypass(with_processor(own_server, "sdpa"), "OneDiffCompile")).pictures
    assert abs(result.pictures[0] - sdpa).max() <= 1


def line_of(text: str, start: str) -> int:
    return 1 + [line.startswith(start) for line in text.splitlines()].index(True)
