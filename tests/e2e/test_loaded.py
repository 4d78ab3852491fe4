"""A processor with weights of one's own, on the real server: as a new user does it who has the help page only."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from examples import bypass, example, run, start
from PIL import Image

from scripts.environment import Environment
from scripts.prompt import to_prompt
from scripts.server import Server, error_of

ROOT = Path(__file__).resolve().parents[2]
HELP = (ROOT / "web" / "docs" / "OneDiffLoadProcessor.md").read_text(encoding="utf-8")
NAME = "custom/temperature:Temperature"


def blocks(language: str) -> list[str]:
    """What the help page shows to be typed."""
    found = re.findall(r"^   ```(\w*)\n(.*?)^   ```$", HELP, re.MULTILINE | re.DOTALL)
    texts = [text for name, text in found if name == language]
    return ["".join(line.removeprefix("   ") for line in text.splitlines(True)) for text in texts]


def loaded(server: Server, file: str, strength: float = 1.0, *, compile: bool = True) -> Any:
    """The example with a loaded file at `custom`, queued."""
    workflow = example("sd15", server, steps=2, OneDiffCompile={"keep_faster": False, "scope": "attention"})
    workflow = bypass(workflow, "OneDiffForwardCheck", *([] if compile else ["OneDiffCompile"]))
    prompt = to_prompt(workflow, server.object_info())
    patch = next(key for key, node in prompt.items() if node["class_type"] == "OneDiffPatchAttention")
    prompt["load"] = {"class_type": "OneDiffLoadProcessor", "inputs": {"file": file, "strength": strength}}
    prompt[patch]["inputs"]["custom"] = ["load", 0]
    entry = server.run(prompt, workflow, 600)
    records = {
        prompt[key]["class_type"]: out["onediff"][0] for key, out in entry["outputs"].items() if "onediff" in out
    }
    return records, server.images(entry), error_of(entry)


def listed(server: Server) -> list[str]:
    info = server.get_json("/object_info/OneDiffLoadProcessor")["OneDiffLoadProcessor"]
    return info["input"]["required"]["file"][1]["options"]


def test_from_the_help_page_to_a_compiled_processor_with_weights(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = environment.cache / "e2e" / "loaded"
    folder = base / "models" / "attention_processors"
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    source, save = blocks("python")
    (command,) = blocks("")
    with start(environment, "loaded") as server:
        assert listed(server) == ["no .safetensors file in models/attention_processors or models/ipadapter"]

        # Written, with a slip: heads are not put together again.
        slip = source.replace("out.transpose(1, 2).flatten(2)", "out.flatten(2)")
        assert slip != source
        (folder / "temperature.py").write_text(slip)
        workflow = example("sd15", server, steps=2, OneDiffPatchAttention={"processor": NAME})
        workflow = bypass(workflow, "OneDiffForwardCheck", "OneDiffCompile")
        first = run(server, workflow).records["OneDiffPatchAttention"]
        number = 1 + next(n for n, line in enumerate(slip.splitlines()) if "out.flatten(2)" in line)
        assert first["patches"]["rejected"]["where"] == f"temperature.py:{number}"
        finding = first["check"]["findings"][0]
        assert finding["severity"] == "error"
        assert finding["where"] == f"models/attention_processors/temperature.py:{number}"
        assert finding["fix"]

        # Mended at the line that the finding names.
        (folder / "temperature.py").write_text(source)
        mended = run(server, workflow)
        assert mended.records["OneDiffPatchAttention"]["patches"]["rejected"] is None
        assert mended.records["OneDiffPatchAttention"]["check"]["findings"] == []
        (plain,) = mended.pictures

        # Saved with weights, as the page says, and written by its command.
        monkeypatch.chdir(tmp_path)
        exec(save, {})
        python, script, weights, *options = shlex.split(command)
        assert (python, script) == ("python", "custom_nodes/comfyui-onediff/scripts/processor_file.py")
        options[options.index("--to") + 1] = str(base / options[options.index("--to") + 1])
        script = str(ROOT / script.removeprefix("custom_nodes/comfyui-onediff/"))
        subprocess.run([sys.executable, script, weights, *options], cwd=tmp_path, check=True, timeout=120)
        assert listed(server) == ["temperature.safetensors"]

        # Loaded, compiled, and seen in the record.
        records, pictures, error = loaded(server, "temperature.safetensors")
        assert error is None
        patched, compiled = records["OneDiffPatchAttention"], records["OneDiffCompile"]
        assert patched["summary"] == "patched 14 sites · custom/temperature:Temperature (temperature)"
        assert patched["check"]["findings"] == []
        assert compiled["state"] == "compiled", compiled["summary"]
        assert compiled["compile"]["regions_uncompiled"] == []
        uncompiled = loaded(server, "temperature.safetensors", compile=False)[1]

        # A damaged file ends in one sentence, and the queue goes on.
        (folder / "cut.safetensors").write_bytes((folder / "temperature.safetensors").read_bytes()[:100])
        _, _, error = loaded(server, "cut.safetensors", compile=False)
        assert "Load Attention Processor (node load): models/attention_processors/cut.safetensors is cut off" in error
        without = loaded(server, "temperature.safetensors", strength=0.0, compile=False)[1]
        (given, same, none) = (decoded(one[0]) for one in (pictures, uncompiled, without))
        assert abs(given - same).max() <= 1
        assert abs(none - plain).max() <= 1, "all factors are 1 there"
        assert abs(given - plain).max() > 1


def decoded(data: bytes) -> Any:
    return numpy.asarray(Image.open(io.BytesIO(data))).astype(int)
