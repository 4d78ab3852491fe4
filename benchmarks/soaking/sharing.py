"""Two servers that share a compile cache: one is killed while it compiles; entries come from the future."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.console import CannotContinue
from scripts.environment import Environment
from scripts.server import Server

from .servers import MOST, PATIENCE, Expected, Result, difference, finished, run, soaked
from .workflow import Family, Workflow, prompt

#: Seconds between the moment at which a server says that it compiles and its end.
MOMENTS = (0.0, 0.7, 1.5, 3.0, 6.0)

YEAR = 365 * 86400.0


def killed_while_compiling(environment: Environment, family: Family, moment: float) -> dict[str, Any]:
    """Both servers compile the same; one is killed, the other goes on, and the killed one starts again."""
    cache = _empty(environment)
    workflow = Workflow(keep_faster=False, width=192)
    with Expected(environment, "shared", [family]) as expected:
        right = expected.of(family, workflow)
    with soaked(environment, "shared_a", [family], cache) as living:
        with soaked(environment, "shared_b", [family], cache) as dying:
            wanted = [server.queue(prompt(family, workflow, 1)) for server in (living, dying)]
            _wait_until_compiling(dying)
            time.sleep(moment)
            os.kill(dying.process.pid, signal.SIGKILL)
            dying.process.wait()
            left = _group(dying.process.pid)
        survived = finished(living, living.wait(wanted[0], PATIENCE))
        found = {"moment": moment, "living": _said(survived, right)}
        found["left_s"] = _seconds_until_gone(left)
        found["unfinished"] = len(list(cache.rglob("*.tmp")))
        again = replace(workflow, batch=2)  # what the killed server holds must not keep the other from going on
        found["living_goes_on"] = run(living, prompt(family, again, 2)).error
    with soaked(environment, "shared_b", [family], cache) as server:
        found["again"] = _said(run(server, prompt(family, workflow, 3)), right)
    return found


def from_the_future(environment: Environment, family: Family) -> dict[str, Any]:
    """The clock was set back by a year after the cache was filled: its files are from the future."""
    cache = _empty(environment)
    workflow = Workflow(keep_faster=False)
    with Expected(environment, "shared", [family]) as expected:
        right = expected.of(family, workflow)
    found = {}
    for name in ("filled", "future"):
        with soaked(environment, "shared_a", [family], cache) as server:
            found[name] = _said(run(server, prompt(family, workflow, 1)), right)
        for path in (*cache.rglob("*"), *(environment.cache / "soak" / "shared_a" / "user").rglob("*")):
            os.utime(path, (time.time() + YEAR,) * 2)
    return found


def _empty(environment: Environment) -> Path:
    cache = environment.cache / "soak" / "shared_cache"
    shutil.rmtree(cache, ignore_errors=True)
    return cache


def _said(result: Result, right: Any) -> dict[str, Any]:
    record = result.records.get("compile") or {}
    compiled = record.get("compile") or {}
    fields = ("cache", "cache_hits", "cache_misses", "cache_notes", "regions", "regions_compiled", "graphs")
    off = difference(result.latents, right) if result.error is None else float("inf")
    said = {"failed": not off <= MOST, "difference": off, "error": result.error, "state": record.get("state")}
    return said | {name: compiled.get(name) for name in fields}


def _wait_until_compiling(server: Server) -> None:
    until = time.monotonic() + PATIENCE
    while "compiling" not in [record["state"] for record in server.status().values()]:
        if time.monotonic() > until:
            raise CannotContinue("the server to be killed never compiled")
        time.sleep(0.05)


def _group(leader: int) -> list[int]:
    """Processes of a server's group other than itself, such as compile workers."""
    return [pid for pid, group in _processes() if group == leader and pid != leader]


def _processes() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                yield int(folder.name), os.getpgid(int(folder.name))


def _seconds_until_gone(processes: list[int], most: float = 60.0) -> float | None:
    """How long what a killed server started lives on; None for longer than ``most``, then it is ended."""
    begun = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        if time.monotonic() - begun > most:
            for pid in processes:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            return None
        time.sleep(0.1)
    return time.monotonic() - begun
