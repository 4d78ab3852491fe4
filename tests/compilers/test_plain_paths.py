"""Folders whose names have spaces and quotes, as people have them: PyTorch's compiler splits such paths."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from onediff_pack.compilers.compile_cache.plain_paths import PlainPaths
from onediff_pack.compilers.compile_cache.workspace import Workspace

pytestmark = pytest.mark.skipif(os.name != "posix", reason="makes links")

ROOT = Path(__file__).resolve().parents[2]
COMPILES = f"""
import sys, types
package = types.ModuleType("pack"); package.__path__ = [{str(ROOT)!r}]; sys.modules["pack"] = package
import torch
from pack.compilers.compile_cache.workspace import Workspace
workspace = Workspace()
with workspace.in_use():
    value = torch.compile(lambda x: (x.sin() + 1).sum())(torch.zeros(1000))
print(value.item(), torch.__file__, workspace.folder.resolve())
"""


@pytest.mark.parametrize("name", ["a b", "it's", 'an "odd" one', "back\\slash"])
def test_a_compile_has_a_folder_whose_path_stays_whole(tmp_path, monkeypatch, name):
    place = tmp_path / name
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    workspace = Workspace()
    assert not set(" '\"\\") & set(str(workspace.folder))
    (workspace.folder / "made").touch()
    (made,) = place.glob("*/made")
    workspace.delete()
    assert list(place.iterdir()) == [] and not made.exists()
    assert not workspace.folder.parent.parent.exists(), "the links are gone too"


def test_what_a_link_leads_to_stays(tmp_path):
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / "file").touch()
    paths = PlainPaths()
    link = paths.of(folder)
    assert (link / "file").is_file() and paths.of(folder) == link
    paths.delete()
    assert not link.is_symlink() and (folder / "file").is_file()


def test_a_plain_path_is_left_as_it_is(tmp_path):
    folder = tmp_path / "schön"
    assert PlainPaths().of(folder) == folder


def test_without_a_place_for_links_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("onediff_pack.compilers.compile_cache.plain_paths._PLACES", (tmp_path / "none",))
    with pytest.raises(OSError, match="none"):
        PlainPaths().of(tmp_path / "a b")


@pytest.mark.long
def test_python_torch_and_the_temporary_folder_in_a_folder_with_a_space(tmp_path):
    """As in “/home/me/AI stuff/ComfyUI/venv”."""
    folder = tmp_path / "it's AI stuff"
    (folder / "temporary").mkdir(parents=True)
    (folder / "venv").symlink_to(sys.prefix, target_is_directory=True)
    python = folder / "venv" / Path(sys.executable).relative_to(sys.prefix)
    variables = {**os.environ, "TMPDIR": str(folder / "temporary")}
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        variables.pop(name, None)
    made = subprocess.run([str(python), "-c", COMPILES], env=variables, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr[-3000:]
    value, _, rest = made.stdout.strip().partition(" ")
    assert float(value) == 1000.0
    assert rest.count(str(folder)) == 2, "both were there"
    assert list((folder / "temporary").glob("onediff-*")) == []
