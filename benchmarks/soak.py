"""Random changes of workflows on a server that lives long: is every picture what ComfyUI without the pack makes?

``python3 benchmarks/soak.py [--only FAMILY] [--seeds 0-3] [--changes 50]`` runs so many changes of each seed on each
family of `soaking/workflow.py`, one server a family, and writes a line of JSON a change into ``--log``. Started again
with the same log it goes on. What fails is shrunk to the fewest changes that do, and printed as a list that
tests/e2e/test_soak.py can hold. ``--prompts 500`` runs so many from two clients at once instead, and says what the
server holds; ``--share`` lets two servers share a compile cache, of which one is killed while it compiles.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks.soaking.clients import both, grown
from benchmarks.soaking.sharing import MOMENTS, from_the_future, killed_while_compiling
from benchmarks.soaking.soaking import Soak, done_before
from benchmarks.soaking.workflow import FAMILIES, Family
from scripts import console
from scripts.console import CannotContinue, say
from scripts.environment import Environment
from scripts.environment import chosen as chosen_environment


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(FAMILIES), help="may be given several times")
    parser.add_argument("--seeds", type=_seeds, default=range(4), help="as 0-3; odd ones keep what is slower")
    parser.add_argument("--changes", type=int, default=50, help="how many of each seed")
    parser.add_argument("--prompts", type=int, help="so many from two clients, on the first two families of --only")
    parser.add_argument("--share", action="store_true", help="two servers on one compile cache, with one family")
    parser.add_argument("--log", type=Path, help="default: soak/soak.jsonl in the cache folder")
    parser.add_argument("--no-shrink", action="store_true", help="only say what fails")
    parser.add_argument("--host", type=Path, help="a ComfyUI folder to use with this Python; installs nothing")
    options = parser.parse_args()
    environment = chosen_environment(options.host)
    if isinstance(environment, int):
        return environment
    log = options.log or environment.cache / "soak" / "soak.jsonl"
    if options.prompts:
        two = [FAMILIES[name] for name in options.only or ("sd15", "flux")][:2]
        return 1 if prompts(environment, two, options.prompts, log) else 0
    if options.share:
        return 1 if share(environment, FAMILIES[(options.only or ["flux"])[0]]) else 0
    wrong = sum(soak(environment, FAMILIES[name], options, log) for name in options.only or FAMILIES)
    say(f"{wrong} wrong pictures; every change is in {log}.")
    return 1 if wrong else 0


def soak(environment: Environment, family: Family, options: Any, log: Path) -> int:
    """Runs a family's seeds, and says how many pictures were wrong."""
    found = []
    with Soak(environment, family, log) as running:
        for seed in options.seeds:
            begin = done_before(log, family.name, seed)
            found += running.seed(seed, options.changes, begin, _tell)
        for line in [] if options.no_shrink else found[:3]:
            steps = running.shrink(line)
            say(f"{family.name}, seed {line['seed']}, change {line['number']} fails:")
            say("  not again on new servers" if steps is None else f"  {family.name!r}, {steps}")
    return len(found)


def prompts(environment: Environment, families: list[Family], count: int, log: Path) -> bool:
    """Runs prompts from two clients; whether anything was wrong, or grew."""

    def tell(line: dict[str, Any]) -> None:
        said = f"{line['number']} {line['family']} {line['workflow']}: {line['error'] or line['difference']}"
        say(f"{'WRONG ' if line['failed'] else ''}{said}, {line['rss_mb']:.0f} MB")

    found = both(environment, families, count, log, tell)
    for number, window in enumerate(found["windows"]):
        say(f"window {number}: {window['rss_mb']:.0f} MB, {window['threads']:g} threads, {window['fds']:g} fds")
    bad = grown(found["windows"]) + found["stopped"]
    say(f"{found['prompts']} of {count} prompts finished, {found['wrong']} wrong pictures; {'; '.join(bad) or 'flat'}.")
    return bool(bad or found["wrong"] or found["prompts"] != count)


def share(environment: Environment, family: Family) -> bool:
    """Two servers on one compile cache, and files from the future; whether anything was wrong."""
    rounds = [killed_while_compiling(environment, family, moment) for moment in MOMENTS]
    rounds.append(from_the_future(environment, family))
    for found in rounds:
        say(json.dumps(found))
    return any(part["failed"] for found in rounds for part in found.values() if isinstance(part, dict))


def _tell(line: dict[str, Any]) -> None:
    change = line["change"] or {"field": "start", "value": ""}
    said = f"{line['family']} {line['seed']}.{line['number']} {change['field']} {change['value']}"
    off = f"{line['difference']:.4f}" if line["error"] is None else line["error"]
    moved = "" if line["moved"] is None else f", moved {line['moved']:.1f}"
    say(f"{'WRONG ' if line['failed'] else ''}{said}: {off}{moved}, {line['seconds']:.1f} s, {line['rss_mb']:.0f} MB")


def _seeds(text: str) -> range:
    try:
        low, _, high = text.partition("-")
        return range(int(low), int(high or low) + 1)
    except ValueError as error:
        raise CannotContinue(f"--seeds {text}: it takes a number, or two as 0-3.") from error


if __name__ == "__main__":
    sys.exit(console.run(main))
