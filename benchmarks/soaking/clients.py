"""Two clients at once on one server, each with a family of its own: memory, threads and file descriptors stay flat."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from scripts.environment import Environment
from scripts.server import Server

from .servers import MOST, PATIENCE, Expected, Result, difference, finished, soaked, usage
from .workflow import Family, Workflow, changes, first, prompt

#: Of memory: what may come on top after the first prompts.
GROWTH = 1.02

#: Prompts before which everything has been loaded and compiled once, and a window of those after it.
SETTLED = 50

#: Workflows of a client; each comes once before the order is left to chance. And prompts that wait in the queue.
POOL, QUEUED = 6, 2


@dataclass
class Client:
    """One page: a client id, workflows of one family, and what they should give."""

    server: Server
    family: Family
    workflows: list[tuple[Workflow, Any]]
    seed: int

    def run(self, count: int, number: Callable[[], int], note: Callable[[dict[str, Any]], None]) -> None:
        chance, waiting = random.Random(self.seed), []
        for index in range(count + QUEUED):
            if index < count:
                chosen = index if index < POOL else chance.randrange(POOL)
                workflow, expected = self.workflows[chosen]
                waiting.append((chosen, expected, self.server.queue(prompt(self.family, workflow, number()))))
            if len(waiting) > QUEUED or index >= count:
                chosen, expected, prompt_id = waiting.pop(0)
                result = finished(self.server, self.server.wait(prompt_id, PATIENCE))
                off = difference(result.latents, expected) if result.error is None else float("inf")
                line = {"family": self.family.name, "workflow": chosen, "difference": off, "error": result.error}
                line |= {"failed": not off <= MOST, "states": result.states, "seconds": result.seconds}
                note(line | {"graphs": _loaded(result), **usage(self.server)})


def both(
    environment: Environment, families: Sequence[Family], count: int, log: Path, tell: Callable[[dict], None]
) -> dict[str, Any]:
    """So many prompts altogether; what became of them, and what the server held in windows of `SETTLED` prompts."""
    pools = {family.name: _pool(family, 100 + index) for index, family in enumerate(families)}
    with Expected(environment, "clients", list(families)) as expected:
        known = {
            family.name: [(workflow, expected.of(family, workflow)) for workflow in pools[family.name]]
            for family in families
        }
    lines: list[dict[str, Any]] = []
    lock, numbers, errors = threading.Lock(), iter(range(1, 2**31)), []

    def note(line: dict[str, Any]) -> None:
        with lock, log.open("a", encoding="utf-8") as file:
            lines.append(line | {"number": len(lines) + 1})
            file.write(json.dumps(lines[-1]) + "\n")
            tell(lines[-1])

    def number() -> int:
        with lock:
            return next(numbers)

    def work(client: Client, share: int) -> None:
        try:
            client.run(share, number, note)
        except Exception as error:
            errors.append(f"{client.family.name}: {error}")

    log.parent.mkdir(parents=True, exist_ok=True)
    with soaked(environment, "clients", list(families)) as server:
        clients = [
            Client(replace(server, client=uuid.uuid4().hex), family, known[family.name], index)
            for index, family in enumerate(families)
        ]
        shares = [count // len(clients) + (index < count % len(clients)) for index in range(len(clients))]
        threads = [threading.Thread(target=work, args=pair) for pair in zip(clients, shares, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {
        "prompts": len(lines),
        "wrong": sum(line["failed"] for line in lines),
        "stopped": errors,
        "windows": windows(lines),
    }


def windows(lines: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Medians of what was held, window by window. A single look would meet a model that is just being sampled."""
    names = ("rss_mb", "threads", "fds")
    parts = [lines[start : start + SETTLED] for start in range(0, len(lines), SETTLED)]
    return [{name: median(line[name] for line in part) for name in names} for part in parts if len(part) == SETTLED]


def grown(found: Sequence[dict[str, float]]) -> list[str]:
    """What is more in the last window than in the second one, in words."""
    if len(found) < 3:
        return []
    begin, end = found[1], found[-1]
    said = []
    if end["rss_mb"] > GROWTH * begin["rss_mb"]:
        said.append(f"memory grew from {begin['rss_mb']:.0f} to {end['rss_mb']:.0f} MB")
    said += [
        f"{what} grew from {begin[what]:g} to {end[what]:g}" for what in ("threads", "fds") if end[what] > begin[what]
    ]
    return said


def _loaded(result: Result) -> int:
    """How many graphs were compiled, or loaded from disk, for this prompt."""
    said = (result.records.get("compile") or {}).get("compile") or {}
    return said.get("cache_hits", 0) + said.get("cache_misses", 0)


def _pool(family: Family, seed: int) -> list[Workflow]:
    workflow, found = first(seed), []
    for change in islice(changes(family, seed), 3 * POOL):
        workflow = change.of(workflow)
        if workflow not in found:
            found.append(workflow)
    return found[:POOL]
