"""Installing the pack changes nothing that is there: pip and uv are asked what they would do in three ComfyUIs.

The environments are folders of metadata, as pip and uv read it, and nothing else: hosts/ holds what the requirements of
three ComfyUIs resolved to, the oldest with transformers 4.57, the newest with the newest diffusers in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOSTS = sorted((Path(__file__).parent / "hosts").glob("*.json"))
OFFLINE = ("No matching distribution", "Failed to fetch", "error sending request", "not found in the package registry")
SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"
#: What each tool prints for a distribution: pip's list of what would be there, uv's lines of what comes and goes.
SAID = {"pip": r"Would install (.*)", "uv": r"^ [-+~] (.*)"}


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement).group()).lower()


def host_python(folder: Path, host: dict[str, list[str]]) -> Path:
    """A Python that takes these distributions for installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = Path(subprocess.check_output([str(python), "-c", SITE], text=True).strip())
    for pin, requires in host.items():
        name, version = pin.split("==")
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires)]) + "\n")
        (info / "RECORD").write_text("")
        (info / "INSTALLER").write_text("pip\n")
    return python


@pytest.fixture(scope="module", params=["pip", "uv"])
def tool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Which tool install.py finds, and the variables of that."""
    folder = tmp_path_factory.mktemp("tools")
    variables = {**os.environ, "PIP_RETRIES": "0", "UV_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": ""}
    if request.param == "pip":
        source = Path(find_spec("pip").origin).parent
        shutil.copytree(source, folder / "pip")
        return "pip", {**variables, "PYTHONPATH": str(folder)}
    uv = pytest.importorskip("uv", reason="uv is not installed").find_uv_bin()
    return "uv", {**variables, "PATH": os.pathsep.join([str(Path(uv).parent), os.environ["PATH"]])}


def would_change(command: list[str], tool: tuple[str, dict[str, str]], host: dict[str, list[str]]) -> set[str]:
    """Names of what is installed and would not stay as it is; a package index that cannot be reached skips the test."""
    name, variables = tool
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode and any(sign in said for sign in OFFLINE):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, said
    named = " ".join(re.findall(SAID[name], said, re.MULTILINE)).split()
    # pip names a file, matplotlib-3.10.1, and uv a requirement, matplotlib==3.10.1.
    names = {name_of(n.rpartition("-")[0] if name == "pip" else n.partition("==")[0]) for n in named}
    assert "onediff" in names
    return names & {name_of(pin) for pin in host}


@pytest.mark.parametrize("file", HOSTS, ids=lambda file: file.stem)
def test_nothing_that_is_there_changes(file: Path, tool: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    host = json.loads(file.read_text(encoding="utf-8"))
    python = host_python(tmp_path / "venv", host)
    assert would_change([str(python), str(ROOT / "install.py"), "--dry-run"], tool, host) == set()


def test_what_onediff_asks_for_would_change_it(tool: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Why install.py takes OneDiff alone, and that the tests above would see it."""
    host = json.loads(HOSTS[0].read_text(encoding="utf-8"))
    python = host_python(tmp_path / "venv", host)
    install = {"pip": [str(python), "-m", "pip", "install"], "uv": ["uv", "pip", "install", "--python", str(python)]}
    changed = would_change([*install[tool[0]], "--dry-run", "onediff"], tool, host)
    # pip takes the newest diffusers and what fits to it, uv an older one, which still wants a newer safetensors.
    assert changed & {"transformers", "safetensors"}


def test_onediff_works_without_what_it_asks_for() -> None:
    code = (
        "import sys, torch\n"
        "sys.modules.update(dict.fromkeys(('diffusers', 'transformers', 'accelerate', 'huggingface_hub')))\n"
        "from onediff.infer_compiler import compile\n"
        "from onediff.infer_compiler.backends.deployable_module import DeployableModule\n"
        "from onediff.infer_compiler.backends.registry import register_backend\n"
        "register_backend('as_is')(lambda module, *, options=None: module)\n"
        "layer = torch.nn.Linear(2, 2)\n"
        "assert compile(layer, backend='as_is') is layer\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_both_lists_of_requirements_agree() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r"^dependencies = (\[.*?\])", project, re.MULTILINE | re.DOTALL).group(1)
    assert sorted(json.loads(declared)) == sorted(line for line in lines if not line.startswith("#"))


def test_the_remedy_for_a_missing_onediff_leaves_out_what_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from onediff_pack.compilers.backends import through_onediff

    monkeypatch.setattr(through_onediff, "find_spec", lambda name: None)
    assert "“pip install --no-deps onediff”" in through_onediff.missing_onediff()
