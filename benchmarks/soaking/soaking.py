"""Changes of a workflow on one server, one after the other: each picture against what is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from scripts.console import CannotContinue, say
from scripts.environment import Environment
from scripts.server import Server

from .servers import MOST, Expected, difference, run, soaked, usage
from .shrinking import shrunk
from .workflow import Change, Family, Workflow, changes, described, first, prompt

Line = dict[str, Any]


class Soak:
    """One family on its two servers. What was run so far is in ``log``, a line of JSON a change."""

    def __init__(self, environment: Environment, family: Family, log: Path) -> None:
        self.environment, self.family, self.log = environment, family, log
        self.ran: list[tuple[int, Change | None]] = []
        """Seeds and changes that the server has seen since it started; None is what a seed starts with."""
        self._open = ExitStack()
        self.number = 0

    def __enter__(self) -> Soak:
        self.expected = self._open.enter_context(Expected(self.environment, self.family.name, [self.family]))
        self.server = self._open.enter_context(soaked(self.environment, self.family.name, [self.family]))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def seed(self, seed: int, count: int, begin: int, tell: Callable[[Line], None]) -> list[Line]:
        """Runs a seed's changes from ``begin`` (0 is the workflow as it starts) up to ``count``; the lines of those
        that failed."""
        workflow, failed = first(seed), []
        before = None
        steps: list[Change | None] = [None, *islice(changes(self.family, seed), count)]
        for number, change in enumerate(steps):
            workflow = change.of(workflow) if change else workflow
            if number < begin:
                continue
            self.ran.append((seed, change))
            expected = self.expected.of(self.family, workflow)
            line = {"family": self.family.name, "seed": seed, "number": number}
            line |= {"change": change and asdict(change), "set": described(workflow)}
            line |= self._sample(workflow, expected)
            # A change that shows in no picture proves nothing: what stays from before would not be seen either.
            line["moved"] = difference(expected, before) if before and len(before) == len(expected) else None
            before = expected
            self._write(line)
            tell(line)
            if line["failed"]:
                failed.append(line)
        return failed

    def _sample(self, workflow: Workflow, expected: Any) -> Line:
        self.number += 1
        result = run(self.server, prompt(self.family, workflow, self.number))
        off = difference(result.latents, expected) if result.error is None else float("inf")
        line = {"failed": not off <= MOST, "difference": off, "error": result.error, "states": result.states}
        return line | {"seconds": result.seconds, **usage(self.server)}

    def _write(self, line: Line) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def shrink(self, line: Line) -> list[Change] | None:
        """The fewest changes after which a new server makes a wrong picture too; None where none does. First those of
        the seed, then all that the server had seen."""
        seed = line["seed"]
        here = next(i for i, one in enumerate(self.ran) if one[0] == seed)
        upto = here + [one[0] for one in self.ran].count(seed)
        own = [change for _, change in self.ran[here:upto] if change][: line["number"]]
        keep_faster = Change("keep_faster", first(seed).keep_faster)
        for steps in ([keep_faster, *own], [*self._earlier(here), *_back_to(seed), *own]):
            if self.fails(steps):
                return shrunk(steps, self.fails)
        return None

    def _earlier(self, until: int) -> list[Change]:
        steps: list[Change] = []
        for seed, change in self.ran[:until]:
            steps += [change] if change else _back_to(seed)
        return steps

    def fails(self, steps: Sequence[Change]) -> bool:
        """Whether a new server's last picture is wrong, or any prompt fails, after these changes."""
        say(f"  trying {len(steps)} changes …")
        workflow = Workflow()
        with soaked(self.environment, f"{self.family.name}_again", [self.family]) as server:
            return wrong(server, self.expected, self.family, steps, workflow) is not None


def wrong(
    server: Server, expected: Expected, family: Family, steps: Sequence[Change], workflow: Workflow
) -> str | None:
    """What is wrong with the last picture of a list of changes, None when it is right. Used by the tests that hold what
    a soak found."""
    result, number = None, 0
    for number, change in enumerate(steps, 1):
        workflow = change.of(workflow)
        try:
            result = run(server, prompt(family, workflow, number))
        except CannotContinue as error:
            return str(error)
        if result.error:
            return result.error
    if result is None:
        return None
    off = difference(result.latents, expected.of(family, workflow))
    return None if off <= MOST else f"the picture of {described(workflow)} is off by {off:.2f} of 255"


def _back_to(seed: int) -> list[Change]:
    """What brings any workflow to what a seed starts with, as changes."""
    start = asdict(first(seed))
    return [Change(name, value) for name, value in start.items()]


def done_before(log: Path, family: str, seed: int) -> int:
    """The change of a seed with which a soak goes on: the one after the last in its log."""
    if not log.is_file():
        return 0
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return max((line["number"] + 1 for line in lines if (line["family"], line["seed"]) == (family, seed)), default=0)
