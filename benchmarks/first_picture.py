"""Where the seconds of a first picture go, in a new process with an empty compile cache, on the real ComfyUI.

``python3 benchmarks/first_picture.py [--only MODEL] [--turns 3] [--against FOLDER] [--cold]`` prints a table for each
model: seconds of the whole picture; to the end of its last step that compiled anything or loaded what was compiled, by
part; and processor time, which a busy machine changes less. All medians of the turns, each on a server of its own.
``--against`` is another version of this pack, by turns with this one. Inductor's fixed start-up and this pack's proof
of it are over before; with ``--cold`` they are not. ``--host FOLDER`` uses this Python and that ComfyUI as they are,
without network.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks.cases import AS_IT_COMES, CPU, CUDA, Model, usual
from benchmarks.side_by_side import OURS, Bench, chosen, first_step, serve_for
from scripts import console
from scripts.console import say
from scripts.environment import Environment
from scripts.environment import chosen as chosen_environment
from scripts.server import sees_accelerator

#: Models that are measured when none is named.
USUAL = ("flux_small", "sd15")

#: Enough for all that is compiled to be compiled.
STEPS = 6

TOTAL, REST = "first step", "steps and nodes"

Times = dict[str, float]


def picture(environment: Environment, model: Model, way: str, pack: Path, cold: bool) -> Times:
    """The first picture of a new server: seconds by part."""
    with serve_for(environment, model, pack, started=not cold) as server:
        bench = Bench(server, model)
        if not cold:
            bench.sample("uncompiled", usual(model), 1, 0, "load")
        server.get_json("/benchmark/watched", timeout=120)
        seen = bench.sample(way, usual(model), STEPS, 1, "first picture")
        say(f"  {seen['record']['summary']}")
        whole = {f"picture of {STEPS} steps": seen["seconds"]}
        return whole | by_part(first_step(seen), seen["parts"]) | {"graphs": seen["graphs"]}


def by_part(seconds: float, parts: Times) -> Times:
    """What is left of the ``seconds`` of the first step goes to steps and nodes; processor time is another clock."""
    clock = {part: value for part, value in parts.items() if not part.endswith("CPU")}
    others = {part: value for part, value in parts.items() if part not in clock}
    return {TOTAL: seconds, **clock, REST: seconds - sum(clock.values()), **others}


def median(turns: Sequence[Times]) -> Times:
    """Part by part."""
    parts = dict.fromkeys(part for turn in turns for part in turn)
    return {part: statistics.median(turn.get(part, 0.0) for turn in turns) for part in parts}


def table(found: dict[str, Times]) -> list[str]:
    """Lines of Markdown: a row a part, a column a version."""
    parts = dict.fromkeys(part for times in found.values() for part in times)
    lines = [f"| seconds | {' | '.join(found)} |", f"| --- |{' ---: |' * len(found)}"]
    for part in parts:
        cells = [f"{times[part]:.1f}" if part in times else "-" for times in found.values()]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="MODEL", help="this model; may be given several times")
    parser.add_argument("--turns", type=int, default=3, help="pictures of each version (default: 3)")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another version of this pack")
    parser.add_argument("--cold", action="store_true", help="Inductor starts with the picture")
    parser.add_argument("--way", choices=OURS, default=AS_IT_COMES, help="the node's settings")
    parser.add_argument("--host", type=Path, help="a ComfyUI folder to use with this Python; installs nothing")
    options = parser.parse_args()
    environment = chosen_environment(options.host)
    if isinstance(environment, int):
        return environment
    packs = {"this": ROOT} | ({options.against.name: options.against.resolve()} if options.against else {})
    models = CUDA if sees_accelerator(environment.python) else CPU
    for model in chosen(models, options.only or USUAL, False):
        turns: dict[str, list[Times]] = {name: [] for name in packs}
        for turn in range(options.turns):
            say(f"{model.label}, {turn + 1} of {options.turns} …")
            for name, pack in packs.items():
                turns[name].append(picture(environment, model, options.way, pack, options.cold))
        say("\n".join(("", f"{model.label}, {options.way}", "", *table({n: median(t) for n, t in turns.items()}), "")))
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
