"""The two servers of a soak: one with the pack that lives long, one without it that says what is right."""

from __future__ import annotations

import array
import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.checkpoints import standin
from scripts.console import CannotContinue
from scripts.environment import ROOT, Environment
from scripts.server import Server, error_of, link_file, link_folder, serve

from .workflow import Family, Workflow, prompt

#: Seconds after which a prompt counts as one that hangs: compiling everything anew takes a minute or two.
PATIENCE = 600.0

#: Prompts after which the uncompiled server starts anew, so that nothing may build up in what is compared with.
RESTARTED = 50

#: Of 255: what the largest difference of a picture may be. Both servers compute the same in float32, in another order,
#: which comes to 0.001 of 255, and to 0.01 with CFG; a change of the workflow that is not seen comes to 10 and more.
MOST = 0.1


@dataclass(frozen=True)
class Result:
    """What became of one prompt: its latents, why it failed, and the records of our nodes by node."""

    latents: array.array
    error: str | None
    records: dict[str, dict[str, Any]]
    seconds: float

    @property
    def states(self) -> dict[str, str]:
        """The states of our nodes, and what the compile node says."""
        said = {node: record["state"] for node, record in self.records.items()}
        return said | {f"{node} says": record["summary"] for node, record in self.records.items() if node == "compile"}


def run(server: Server, workflow: dict[str, Any]) -> Result:
    """Raises `CannotContinue` for a prompt that hangs, and `ServerDied`."""
    return finished(server, server.wait(server.queue(workflow), PATIENCE))


def finished(server: Server, entry: dict[str, Any]) -> Result:
    """The result of a history entry; its file is read and deleted."""
    latents = array.array("f")
    for name in entry["outputs"].get("keep", {}).get("latent", ()):
        file = server.base / "output" / name
        latents.frombytes(file.read_bytes())
        file.unlink()
    records = {node: output["onediff"][0] for node, output in entry["outputs"].items() if "onediff" in output}
    stamps = [data["timestamp"] for _, data in entry["status"]["messages"] if data.get("timestamp")]
    return Result(latents, error_of(entry), records, (max(stamps) - min(stamps)) / 1000)


def difference(picture: array.array, expected: array.array) -> float:
    """The largest difference in 255ths of what lies between the lowest and the highest number of ``expected``: for
    latents what levels are for a picture. Infinite where one of them is not a number, or there are more or fewer."""
    if len(picture) != len(expected) or not expected:
        return float("inf")
    span = max(expected) - min(expected)
    worst = max(abs(a - b) if a == a else float("inf") for a, b in zip(picture, expected, strict=True))
    return worst / span * 255 if span > 0 and worst == worst else float("inf")


def usage(server: Server) -> dict[str, float]:
    """What the server's process holds: MB that are resident and that are allocated, threads, file descriptors."""
    heap = server.get_json("/soak/heap", PATIENCE)  # first: it lets go of what nobody holds
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii", errors="replace")
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    descriptors = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    held = {"rss_mb": int(lines["VmRSS"].split()[0]) / 1024, "heap_mb": heap}
    return {**held, "threads": int(lines["Threads"]), "fds": descriptors}


@contextlib.contextmanager
def soaked(
    environment: Environment, name: str, families: list[Family], cache: Path | None = None, pack: bool = True
) -> Iterator[Server]:
    """A server for these families, in a folder of its own; compiled code is kept there, or in ``cache``."""
    base = environment.cache / "soak" / name
    for family in families:
        for file, folder in family.files.items():
            (base / "models" / folder).mkdir(parents=True, exist_ok=True)
            link_file(standin(environment, file), base / "models" / folder / f"{file}.safetensors")
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    soaking = ROOT / "benchmarks" / "soaking"
    link_folder(soaking / "nodes", base / "custom_nodes" / "soaking")
    own = base / "models" / "attention_processors"
    own.mkdir(parents=True, exist_ok=True)
    link_file(soaking / "attention.py", own / "attention.py")
    shutil.rmtree(base / "output", ignore_errors=True)
    cache = cache or base / "compiled"
    cache.mkdir(parents=True, exist_ok=True)
    # Torch's own switch: what the processor lists works. To try each kind takes up to 40 s in every process.
    variables = {"ONEDIFF_COMPILE_CACHE": str(cache), "TORCHINDUCTOR_VEC_ISA_OK": "1"}
    flags = sorted({flag for family in families for flag in family.flags})
    with serve(environment, base, flags=flags, variables=variables, pack=pack, start_timeout=PATIENCE) as server:
        yield server


class Expected:
    """What is right: ComfyUI without the pack. A workflow that came before costs nothing."""

    def __init__(self, environment: Environment, name: str, families: list[Family]) -> None:
        self.environment, self.name, self.families = environment, name, families
        self._known: dict[str, array.array] = {}
        self._open = contextlib.ExitStack()
        self._server: Server | None = None
        self._runs = 0

    def __enter__(self) -> Expected:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def of(self, family: Family, workflow: Workflow) -> array.array:
        """Latents; raises `CannotContinue` where ComfyUI itself fails."""
        wanted = prompt(family, workflow, 0, stock=True)
        key = json.dumps(wanted, sort_keys=True)
        if key not in self._known:
            self._known[key] = self._ask(prompt(family, workflow, self._runs, stock=True))
        return self._known[key]

    def _ask(self, wanted: dict[str, Any]) -> array.array:
        if self._server is None or self._runs % RESTARTED == 0:
            self._open.close()
            self._server = self._open.enter_context(
                soaked(self.environment, f"{self.name}_expected", self.families, pack=False)
            )
        self._runs += 1
        result = run(self._server, wanted)
        if result.error:
            raise CannotContinue(f"ComfyUI without the pack failed: {result.error}")
        return result.latents
