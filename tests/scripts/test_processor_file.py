"""The command that writes a processor's weights: what it writes is what the node reads, and it says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from onediff_pack.processors.loaded.file import load
from safetensors.torch import save_file

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "processor_file.py"
PLACE = "middle_block.1.transformer_blocks.0.attn2"


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """As somebody runs it who has nothing but the pack's folder."""
    run = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(run, capture_output=True, text=True, timeout=120, cwd=folder, check=False)


def test_what_it_writes_is_what_the_node_reads(tmp_path):
    save_file({"gain": torch.full((3,), 2.0)}, tmp_path / "all.safetensors")
    save_file({"gain": torch.full((3,), 5.0)}, tmp_path / "one.safetensors")
    told = command(
        *(tmp_path, "all.safetensors", f"{PLACE}=one.safetensors"),
        *("--processor", "custom/mine:Gain", "--to", "mine.safetensors"),
    )
    assert (told.returncode, told.stderr) == (0, "")
    file = load(tmp_path / "mine.safetensors", "mine.safetensors", torch.nn)
    assert (file.kind, file.processor) == ("processor", "custom/mine:Gain")
    assert {place: float(tensors["gain"][0]) for place, tensors in file.tensors.items()} == {"*": 2.0, PLACE: 5.0}
    shown = command(tmp_path, "--show", "mine.safetensors").stdout
    assert shown.splitlines() == ["processor: custom/mine:Gain", "*:gain  [3]", f"{PLACE}:gain  [3]"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["all.safetensors", "--processor", "Gain", "--to", "a.safetensors"], "custom/<file>:<Class>"),
        (["all.safetensors", "--processor", "custom/a:B", "--to", "a.pt"], "has to end in .safetensors"),
        (["bad.safetensors", "--processor", "custom/a:B", "--to", "a.safetensors"], "gain holds NaN"),
        (["text.safetensors", "--processor", "custom/a:B", "--to", "a.safetensors"], "header"),
        (["absent.safetensors", "--processor", "custom/a:B", "--to", "a.safetensors"], "absent.safetensors"),
        (["all.safetensors", "--to", "a.safetensors"], "--processor"),
    ],
)
def test_it_says_what_is_wrong_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments, said):
    from scripts.processor_file import main

    save_file({"gain": torch.ones(3)}, tmp_path / "all.safetensors")
    save_file({"gain": torch.full((3,), float("nan"))}, tmp_path / "bad.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights in here, only words\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(arguments))
    assert ended.value.code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a.safetensors").exists()
    assert not (tmp_path / "a.pt").exists()
