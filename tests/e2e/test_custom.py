"""The user's own processor files on the real server: listed, checked, compiled, edited while it runs, broken, and with
weights, as a new user does it who has the help page only."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from examples import ROOT, bypass, example, node_classes, run
from PIL import Image

from scripts.prompt import to_prompt
from scripts.server import Server, error_of

HELP = (ROOT / "web" / "docs" / "OneDiffLoadProcessor.md").read_text(encoding="utf-8")
TEMPERATURE = "custom/temperature:Temperature"

#: What these files change is compiled, and nothing around it.
KEEP = {"keep_faster": False, "scope": "attention"}

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


#: Computes what sdpa does, with a table that it keeps.
TABLE = """

import functools
import torch


@functools.lru_cache(None)
def table(queries, keys):
    return torch.zeros(queries, keys)


class Table(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        bias = table(q.shape[1], k.shape[1])
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
"""


LONG = pytest.mark.long


@pytest.fixture(scope="module")
def folder(server: Server) -> Iterator[Path]:
    """The user's own files of the server that other tests use too: empty before, and after."""

    def empty() -> None:
        for file in (*path.rglob("*.py"), *path.rglob("*.safetensors")):
            file.unlink()

    path = server.base / "models" / "attention_processors"
    path.mkdir(parents=True, exist_ok=True)
    empty()
    (path / "mine.py").write_text(CALLED + PLAIN + BARE + KERNEL + TABLE)
    yield path
    empty()


@pytest.fixture(scope="module")
def own_server(server: Server, folder: Path) -> Server:
    return server


def options(server: Server) -> list[str]:
    """What the node's list of processors holds after the editor's “refresh node definitions”."""
    info = server.get_json("/object_info/OneDiffPatchAttention")
    return info["OneDiffPatchAttention"]["input"]["required"]["processor"][1]["options"]


def with_processor(server: Server, name: str, model: str = "sd15", **changes):
    return example(model, server, steps=4, OneDiffPatchAttention={"processor": name}, OneDiffCompile=KEEP, **changes)


@pytest.mark.parametrize("cls", [*(pytest.param(name, marks=LONG) for name in ("Called", "Plain", "Kernel")), "Table"])
def test_it_runs_compiled_and_equal_to_uncompiled(own_server, cls):
    """Of the one that keeps a table: the check calls it without numbers before, and what it kept of that would end the
    server, or spoil the picture."""
    workflow = with_processor(own_server, f"custom/mine:{cls}")
    compiled = run(own_server, workflow)
    assert compiled.error is None
    record, patched = compiled.records["OneDiffCompile"], compiled.records["OneDiffPatchAttention"]
    assert record["state"] == "compiled", record["summary"]
    assert record["compile"]["regions_uncompiled"] == []
    assert {site["processor"] for site in patched["patches"]["sites"]} == {f"custom/mine:{cls}"}
    said = {"Kernel": [], "Table": ["ignores-mask"]}.get(cls, ["call-instead-of-forward"])
    assert [f["rule"] for f in patched["check"]["findings"]] == said
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
    said = [f["fix"] for f in compiled.records["OneDiffForwardCheck"]["check"]["findings"]]
    assert said == [findings[0]["fix"]], "the check says what to do, not where that is said"
    (sdpa,) = run(own_server, bypass(with_processor(own_server, "sdpa"), "OneDiffCompile")).pictures
    assert abs(compiled.pictures[0] - sdpa).max() <= 1


@LONG
def test_a_kernel_runs_in_flux_too(own_server):
    compiled = run(own_server, with_processor(own_server, "custom/mine:Kernel", "flux"))
    assert compiled.records["OneDiffCompile"]["state"] == "compiled"
    assert len(compiled.records["OneDiffPatchAttention"]["patches"]["sites"]) == 6


def test_files_are_listed_edited_broken_and_mended_without_a_restart(own_server, folder):
    mine = [f"custom/mine:{name}" for name in ("Called", "Plain", "Bare", "Kernel", "Table")]
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


@LONG
def test_diffusers_own_compute_the_same_picture(own_server):
    result = run(own_server, with_processor(own_server, "diffusers/AttnProcessor2_0"))
    assert result.records["OneDiffCompile"]["state"] == "compiled", result.records["OneDiffCompile"]["summary"]
    (sdpa,) = run(own_server, bypass(with_processor(own_server, "sdpa"), "OneDiffCompile")).pictures
    assert abs(result.pictures[0] - sdpa).max() <= 1


def line_of(text: str, start: str) -> int:
    return 1 + [line.startswith(start) for line in text.splitlines()].index(True)


def typed(language: str) -> list[str]:
    """What the help page shows to be typed."""
    found = re.findall(r"^   ```(\w*)\n(.*?)^   ```$", HELP, re.MULTILINE | re.DOTALL)
    texts = [text for name, text in found if name == language]
    return ["".join(line.removeprefix("   ") for line in text.splitlines(True)) for text in texts]


def loaded(server: Server, file: str, strength: float = 1.0, *, compile: bool = True) -> Any:
    """The example with a loaded file at `custom`, queued."""
    workflow = example("sd15", server, steps=2, OneDiffCompile=KEEP)
    workflow = bypass(workflow, "OneDiffForwardCheck", *([] if compile else ["OneDiffCompile"]))
    prompt = to_prompt(workflow, node_classes(server))
    patch = next(key for key, node in prompt.items() if node["class_type"] == "OneDiffPatchAttention")
    prompt["load"] = {"class_type": "OneDiffLoadProcessor", "inputs": {"file": file, "strength": strength}}
    prompt[patch]["inputs"]["custom"] = ["load", 0]
    entry = server.run(prompt, workflow, 600)
    records = {
        prompt[key]["class_type"]: out["onediff"][0] for key, out in entry["outputs"].items() if "onediff" in out
    }
    return records, server.images(entry), error_of(entry)


def files(server: Server) -> list[str]:
    info = server.get_json("/object_info/OneDiffLoadProcessor")["OneDiffLoadProcessor"]
    return info["input"]["required"]["file"][1]["options"]


def test_from_the_help_page_to_a_compiled_processor_with_weights(
    own_server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, save = typed("python")
    (command,) = typed("")
    assert files(own_server) == ["no .safetensors file in models/attention_processors or models/ipadapter"]

    # Written, with a slip: heads are not put together again.
    slip = source.replace("out.transpose(1, 2).flatten(2)", "out.flatten(2)")
    assert slip != source
    (folder / "temperature.py").write_text(slip)
    workflow = example("sd15", own_server, steps=2, OneDiffPatchAttention={"processor": TEMPERATURE})
    workflow = bypass(workflow, "OneDiffForwardCheck", "OneDiffCompile")
    first = run(own_server, workflow).records["OneDiffPatchAttention"]
    number = 1 + next(n for n, line in enumerate(slip.splitlines()) if "out.flatten(2)" in line)
    assert first["patches"]["rejected"]["where"] == f"temperature.py:{number}"
    finding = first["check"]["findings"][0]
    assert finding["severity"] == "error"
    assert finding["where"] == f"models/attention_processors/temperature.py:{number}"
    assert finding["fix"]

    # Mended at the line that the finding names.
    (folder / "temperature.py").write_text(source)
    mended = run(own_server, workflow)
    assert mended.records["OneDiffPatchAttention"]["patches"]["rejected"] is None
    assert mended.records["OneDiffPatchAttention"]["check"]["findings"] == []
    (plain,) = mended.pictures

    # Saved with weights, as the page says, and written by its command.
    monkeypatch.chdir(tmp_path)
    exec(save, {})
    python, script, weights, *options = shlex.split(command)
    assert (python, script) == ("python", "custom_nodes/comfyui-onediff/scripts/processor_file.py")
    options[options.index("--to") + 1] = str(own_server.base / options[options.index("--to") + 1])
    script = str(ROOT / script.removeprefix("custom_nodes/comfyui-onediff/"))
    subprocess.run([sys.executable, script, weights, *options], cwd=tmp_path, check=True, timeout=120)
    assert files(own_server) == ["temperature.safetensors"]

    # Loaded, compiled, and seen in the record.
    records, pictures, error = loaded(own_server, "temperature.safetensors")
    assert error is None
    patched, compiled = records["OneDiffPatchAttention"], records["OneDiffCompile"]
    assert patched["summary"] == "patched 14 sites · custom/temperature:Temperature (temperature)"
    assert patched["check"]["findings"] == []
    assert compiled["state"] == "compiled", compiled["summary"]
    assert compiled["compile"]["regions_uncompiled"] == []
    uncompiled = loaded(own_server, "temperature.safetensors", compile=False)[1]

    # A damaged file ends in one sentence, and the queue goes on.
    (folder / "cut.safetensors").write_bytes((folder / "temperature.safetensors").read_bytes()[:100])
    _, _, error = loaded(own_server, "cut.safetensors", compile=False)
    assert "Load Attention Processor (node load): models/attention_processors/cut.safetensors is cut off" in error
    without = loaded(own_server, "temperature.safetensors", strength=0.0, compile=False)[1]
    (given, same, none) = (decoded(one[0]) for one in (pictures, uncompiled, without))
    assert abs(given - same).max() <= 1
    assert abs(none - plain).max() <= 1, "all factors are 1 there"
    assert abs(given - plain).max() > 1


def decoded(data: bytes) -> Any:
    return numpy.asarray(Image.open(io.BytesIO(data))).astype(int)
