"""The environment of both commands: a virtual environment with the host's and this pack's requirements, and the host.

Only the standard library, because this runs before anything is installed. Everything lands in one cache folder
(`.cache` in the repository, or the folder named by ONEDIFF_CACHE) and is reused by the next run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import host
from .console import CannotContinue, duration, run_logged, running, say, tail
from .installing import install

ROOT = Path(__file__).resolve().parent.parent
# One set of builds that fits together with and without a GPU; left to themselves, the host's requirements mix versions.
PINS = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
_NEEDED_GB = 10
_NETWORK_SIGNS = (
    "No matching distribution found",
    "Could not find a version",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Connection refused",
    "Read timed out",
    "ProxyError",
    "Max retries exceeded",
)


@dataclass(frozen=True)
class Environment:
    cache: Path
    python: Path
    host: Path

    @property
    def logs(self) -> Path:
        return self.cache / "logs"


def cache_folder() -> Path:
    named = os.environ.get("ONEDIFF_CACHE")
    return Path(named).expanduser().resolve() if named else ROOT / ".cache"


def prepare() -> Environment:
    """Makes or reuses everything, and says what it is doing when that takes time."""
    _check_venv()
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(cache / "environment.lock"):
            return _prepare(cache)
    except OSError as error:
        if error.errno == 28:
            raise _disk_full(cache) from error
        raise CannotContinue(
            f"the cache folder {cache} cannot be used ({error.strerror or error}); make it writable or name another "
            "one in ONEDIFF_CACHE."
        ) from error


def continue_inside(environment: Environment) -> int | None:
    """Runs this command again in the environment's own Python; None when that is the one that is running."""
    if Path(sys.prefix).resolve() == environment.python.parent.parent.resolve():
        return None
    with running([str(environment.python), *sys.argv]) as process:
        # Ctrl-C reaches the child as well, which tidies up and says so.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return process.wait()


def chosen(host: Path | None) -> Environment | int:
    """A benchmark's environment: a ComfyUI folder with this Python, or the one that is prepared; the exit code where
    this command ran again inside that."""
    if host is not None:
        return Environment(cache_folder(), Path(sys.executable), host.resolve())
    environment = prepare()
    code = continue_inside(environment)
    return environment if code is None else code


def _prepare(cache: Path) -> Environment:
    logs = cache / "logs"
    venv = cache / f"venv-{sys.version_info[0]}.{sys.version_info[1]}-{_requirements_hash()}"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    finished = venv / ".finished"
    ready = finished.is_file() and python.exists()
    if not ready:
        _check_disk(cache)
        shutil.rmtree(venv, ignore_errors=True)
        say(f"Making a virtual environment for Python {sys.version_info[0]}.{sys.version_info[1]} …")
        _make_venv(venv, logs / "venv.log")
    folder = host.ensure_host(cache, python, logs)
    if not ready:
        _install(cache, python, folder, logs / "install.log")
        finished.touch()
    return Environment(cache, python, folder)


def _check_venv() -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise CannotContinue(
            "this Python cannot make virtual environments; on Debian and Ubuntu, `sudo apt install python3-venv` "
            "brings what is missing."
        )


def _check_disk(cache: Path) -> None:
    if shutil.disk_usage(cache).free < _NEEDED_GB * 10**9:
        raise _disk_full(cache)


def _disk_full(cache: Path) -> CannotContinue:
    free = shutil.disk_usage(cache).free / 10**9
    return CannotContinue(
        f"the disk of {cache} has {free:.1f} GB free and about {_NEEDED_GB} GB are needed; make room or name a folder "
        "on another disk in ONEDIFF_CACHE."
    )


def _requirements_hash() -> str:
    """Changes with anything that is installed, so that an environment is never reused for another list."""
    digest = hashlib.sha256("\n".join((*PINS, host.PACKAGES[host.VERSION].sha256)).encode())
    for name in ("requirements.txt", "requirements-dev.txt", "install.py"):
        digest.update((ROOT / name).read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:8]


def _make_venv(venv: Path, log: Path) -> None:
    if run_logged([sys.executable, "-m", "venv", str(venv)], log, "Making a virtual environment"):
        raise CannotContinue(
            "the virtual environment could not be made; on Debian and Ubuntu, `sudo apt install python3-venv` brings "
            "what is usually missing.",
            tail(log, 6),
        )


def _install(cache: Path, python: Path, folder: Path, log: Path) -> None:
    say("Installing torch and ComfyUI's requirements (about 6 GB, a few minutes, only this once) …")
    started = time.monotonic()
    files = (folder / "requirements.txt", ROOT / "requirements.txt", ROOT / "requirements-dev.txt")
    wanted = [*PINS, *(part for file in files for part in ("-r", str(file)))]
    log.unlink(missing_ok=True)
    code = install(python, wanted, log, cache / "tmp")
    if code:
        last = tail(log, 12)
        text = "\n".join(last)
        if "No space left on device" in text:
            raise _disk_full(cache)
        if any(sign in text for sign in _NETWORK_SIGNS):
            raise CannotContinue(
                "pip could not reach the package index or did not find a package there; check the network (and "
                "PIP_INDEX_URL, if you use one), then run the same command again.",
                last[-6:],
            )
        raise CannotContinue("pip could not install the requirements; its last lines are above.", last)
    say(f"Installed in {duration(time.monotonic() - started)}.")


@contextlib.contextmanager
def one_at_a_time(path: Path, what: str = "the environment") -> Iterator[None]:
    """Two commands started together must not build the same; the lock ends with its process, even killed."""
    with path.open("a+b") as file:
        said = False
        while not try_lock(file.fileno()):
            if not said:
                say(f"Another run is preparing {what}; waiting for it …")
                said = True
            time.sleep(0.5)
        yield


def try_lock(descriptor: int) -> bool:
    """Takes an open file's lock, or says that somebody has it; closing the file gives it back."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def python_says(python: Path, code: str) -> str:
    """What the environment's Python prints for a line of code; empty if it fails."""
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return result.stdout.strip()
