"""Proves something in a process of its own, because native libraries can hang or end the process that loads them."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .proof import Proof

#: Seconds to start, torch's own start included: large libraries may come from a slow disk.
STARTING = 60.0

#: Seconds for the work itself, and for up to two of them to time it, on a machine with a core to spare.
WORKING = 7.0

_ROOT = Path(__file__).resolve().parents[1]
_PACK = "onediff_proof"

#: What the child runs: the pack, under a name of its own and without ComfyUI. Nothing is imported before the current
#: folder is no longer searched.
_CHILD = """
import sys
sys.path[:] = [folder for folder in sys.path if folder not in ("", ".")]
import importlib, types
pack = types.ModuleType("onediff_proof")
pack.__path__ = [sys.argv[1]]
sys.modules["onediff_proof"] = pack
importlib.import_module("onediff_proof.proving.child").child(*sys.argv[2:])
"""


@dataclass(frozen=True)
class Trial:
    """What a child process is to prove. ``module``, of the pack, has a function ``prove(say, *arguments)`` that returns
    a `Proof`; ``say(doing=…)`` tells what it does, and from ``at_work`` on it has less time. ``remedy`` is what to do
    when it hangs or ends its process."""

    module: str
    arguments: Sequence[str]
    at_work: str
    remedy: str


def prove_in_child(trial: Trial, starting: float = STARTING, working: float = WORKING) -> Proof:
    """The proof, or what happened when the child hung, crashed or said nothing."""
    start = time.monotonic()
    working = round(working * _busy())
    with tempfile.TemporaryDirectory(prefix="onediff-proof-", ignore_cleanup_errors=True) as folder:
        answer = Path(folder) / "answer.jsonl"
        arguments = [str(_ROOT), trial.module, str(answer), str(starting + working), *trial.arguments]
        process = subprocess.Popen(
            [sys.executable, *_flags(), "-c", _CHILD, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**_import_path(), "PYTHONFAULTHANDLER": "0", **_private(folder)},
            cwd=folder,  # an empty part of PYTHONPATH means the current folder, which may be anybody's
            start_new_session=os.name == "posix",
        )
        try:
            code = _wait(process, answer, trial.at_work, starting, working)
        finally:
            _end(process)
        said = _read(answer)
    doing = said[-1].get("doing", "starting") if said else "starting"
    proof = next((line["proof"] for line in said if "proof" in line), None)
    seconds = round(time.monotonic() - start, 1)
    if proof is not None:  # even if the process crashed when it ended
        return Proof(**{**proof, "startup_seconds": round(seconds - (proof.get("seconds") or 0), 1)})
    if code is None:
        seconds_given = working if doing == trial.at_work else starting
        what = f"it hung while {doing} and was ended after {seconds_given:g} s"
    else:
        what = f"it ended its process while {doing} ({_cause(code)})"
    return Proof(False, f"{what}: {trial.remedy}.", startup_seconds=seconds)


def child(module: str, answer: str, limit: str, *arguments: str) -> None:
    """The child's part: writes what it does, line by line, and the proof at the end."""
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(float(limit)) + 1)  # ends it even if the parent is gone

    def say(**line: Any) -> None:
        with open(answer, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    proof = importlib.import_module(f"{_PACK}.{module}").prove(say, *arguments)
    say(proof=vars(proof))
    os._exit(0)  # what a native library does when a process ends is not asked


def _flags() -> list[str]:
    """Those of this Python that decide where it imports from."""
    flags = sys.flags
    asked = {"-I": flags.isolated, "-E": flags.ignore_environment, "-s": flags.no_user_site}
    return [flag for flag, is_set in asked.items() if is_set]


def _import_path() -> dict[str, str]:
    """The environment, with only those folders to import from that mean the same in any working folder."""
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folder for folder in folders if os.path.isabs(folder))}


def _private(folder: str) -> dict[str, str]:
    """Everything that the child and its compilers write, and look for, is in a folder that goes with it."""
    names = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
    places = {variable: os.path.join(folder, name) for variable, name in names.items()}
    return {**places, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)}


def _wait(process: subprocess.Popen, answer: Path, at_work: str, starting: float, working: float) -> int | None:
    """The child's exit code, None when it takes longer than it may."""
    deadline, works = time.monotonic() + starting, False
    while time.monotonic() < deadline:
        try:
            return process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            if not works and any(line.get("doing") == at_work for line in _read(answer)):
                deadline, works = time.monotonic() + working, True
    return None


def _busy() -> float:
    """How much longer things take because others use the processor: 1 to 4 times."""
    if not hasattr(os, "getloadavg"):
        return 2.0
    return min(max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0), 4.0)


def _end(process: subprocess.Popen) -> None:
    """Ends the child and whatever it started."""
    if process.poll() is None:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _read(answer: Path) -> list[dict[str, Any]]:
    if not answer.exists():
        return []
    lines = []
    for line in answer.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # cut off in the middle
            break
    return lines


def _cause(code: int) -> str:
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return f"exit code {code}"
