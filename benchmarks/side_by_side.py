"""Side by side on the real ComfyUI: uncompiled, ComfyUI's own compile node, torch.compile block by block, this pack.

``python3 benchmarks/side_by_side.py [--only MODEL] [--quick]`` prints one table and writes ``results/cpu.json`` (or
``cuda.json``); ``--write`` writes their tables into docs/benchmarks.md. Models are stand-ins with random weights.
One server a model: there the ways start one after the other, each with empty caches, and then take turns for the step
times. Inductor's fixed start-up and this pack's proof of it are over before the first. ``--host FOLDER`` uses this
Python and that ComfyUI as they are, without network.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks.cases import (
    ALWAYS_COMPILED,
    AS_IT_COMES,
    CPU,
    CUDA,
    FLAGS,
    WAYS,
    Model,
    Setting,
    prompt,
    sitting,
    usual,
)
from benchmarks.table import claims, table, write_tables
from scripts import console
from scripts.checkpoints import standin
from scripts.console import say
from scripts.environment import Environment
from scripts.environment import chosen as chosen_environment
from scripts.server import Server, error_of, link_file, link_folder, sees_accelerator, serve

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

#: Steps after which this pack has usually timed all by which it decides, and all that it shows.
DECIDED, MOST_SETTLING = 16, 20
SITTING_STEPS = 4

OURS = (AS_IT_COMES, ALWAYS_COMPILED)


class Bench:
    """One model on one server."""

    def __init__(self, server: Server, model: Model):
        self.server, self.model = server, model

    def sample(self, way: str, setting: Setting, steps: int, seed: int, key: str) -> dict[str, Any]:
        """One sampling: its ``seconds``, all model calls, what was compiled, the ``difference`` from uncompiled."""
        entry = self.server.run(prompt(self.model, way, setting, steps, seed, key), timeout=3600)
        if error_of(entry):
            raise console.CannotContinue(f"{self.model.name}, {way}, {key}: {error_of(entry)}")
        seen = self.server.get_json("/benchmark/phase")
        at = {kind: data["timestamp"] for kind, data in entry["status"]["messages"]}
        seen["seconds"] = (at["execution_success"] - at["execution_start"]) / 1000
        seen["difference"] = next(iter(entry["outputs"]["keep"]["difference"]), None)
        seen["record"] = next(iter(entry["outputs"].get("compile", {}).get("onediff", ())), None)
        say(f"  {way}, {key}: {seen['seconds']:.1f} s, {seen['compile_seconds']:.1f} s compiling {seen['graphs']:.0f}")
        return seen

    def row(self, way: str) -> dict[str, Any]:
        """The first sampling of a way, and its sitting, with nothing left of what ran before."""
        self.forget()
        self.server.get_json("/benchmark/begin", timeout=120)
        steps = DECIDED if way in OURS else self.model.first
        first = self.sample(way, usual(self.model), steps, 1, f"first, {steps} steps")
        seen = [first]
        changes = {}
        for change, setting in sitting(self.model) if self.model.sitting else ():
            seen.append(self.sample(way, setting, SITTING_STEPS, 1, change))
            changes[change] = {name: seen[-1][name] for name in ("seconds", "compile_seconds", "graphs", "difference")}
        record = first["record"]
        return {
            "model": self.model.name,
            "label": self.model.label,
            "way": way,
            "first_step_s": first_step(first),
            "first_compile_s": first["compile_seconds"],
            "first_graphs": first["graphs"],
            "sitting_compile_s": sum(s["compile_seconds"] for s in seen) if changes else None,
            "sitting_compiles": sum(s["graphs"] for s in seen[1:]) if changes else None,
            "graphs": sum(s["graphs"] for s in seen),
            "breaks": sum(s["breaks"] for s in seen),
            "recompiles": sum(s["recompiles"] for s in seen),
            "peak_mb": max((s["peak_mb"] for s in seen if s["peak_mb"] is not None), default=None),
            "difference": max((s["difference"] for s in seen if s["difference"] is not None), default=None),
            "summary": record and record["summary"],
            "changes": changes,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Every way, the first ones with figures of compiling, all with step times."""
        self.sample("uncompiled", usual(self.model), 1, 0, "load")
        rows = [self.row(way) for way in WAYS]
        self.forget()
        for way in OURS:
            self.settle(way)
        for row, times in zip(rows, self.in_turn(WAYS), strict=True):
            row.update(times)
        return rows

    def settle(self, way: str) -> None:
        """Samples until nothing is compiled in the background any more, and this pack has decided."""
        for seed in range(1, MOST_SETTLING):
            seen = self.sample(way, usual(self.model), DECIDED, seed, "settle")
            if not ((seen["record"]["compile"] or {}).get("stopped") or {}).get("beside"):
                return

    def forget(self) -> None:
        """Drops this pack's graphs and measurements: two of the ways would share them."""
        for what in ("compile cache", "measurements"):
            self.server.post_json("/onediff/clear", {"what": what})

    def in_turn(self, ways: Sequence[str]) -> list[dict[str, Any]]:
        """Median milliseconds of a step, and how many times as fast as uncompiled, the ways taking turns. The first
        call of each sampling is left out: it brings the model and its compiled code back into the caches."""
        rounds: list[dict[str, float]] = []
        found: dict[str, dict[str, Any]] = {way: {"steps_ms": [], "later_compiles": 0} for way in ways}
        for number in range(self.model.rounds):
            rounds.append({})
            for way in ways:
                seen = self.sample(way, usual(self.model), self.model.steps + 1, 10 + number, f"round {number + 1}")
                times = [call["seconds"] * 1000 for call in seen["calls"][1:]]
                rounds[-1][way] = statistics.median(times)
                found[way]["steps_ms"] += [round(t, 2) for t in times]
                found[way]["later_compiles"] += seen["graphs"]
                found[way]["difference"] = max(found[way].get("difference", 0.0), seen["difference"])
                if way in OURS:
                    found[way]["summary"] = seen["record"] and seen["record"]["summary"]
        for way in ways:
            found[way]["step_ms"] = statistics.median(found[way]["steps_ms"])
            ratios = [r["uncompiled"] / r[way] for r in rounds]
            found[way].update(ratio=statistics.median(ratios), ratio_low=min(ratios), ratio_high=max(ratios))
        return list(found.values())


def first_step(seen: dict[str, Any]) -> float:
    """Seconds from the start of the workflow to the end of the last model call that compiled anything or loaded what
    was compiled, or of the first call when none did. With it go the nodes' own work and the steps that a way takes
    uncompiled before it compiles."""
    calls = seen["calls"]
    compiled = [index for index, call in enumerate(calls) if call["compile_seconds"] or call["libraries"]]
    last = compiled[-1] if compiled else 0
    return seen["seconds"] - sum(call["seconds"] for call in calls[last + 1 :])


@contextlib.contextmanager
def serve_for(environment: Environment, model: Model, pack: Path = ROOT, started: bool = True) -> Iterator[Server]:
    """A ComfyUI with this pack, or another version of it, and the instruments, in a folder of its own that was empty.
    ``started``: Inductor's fixed start-up and the pack's proof of it are over."""
    base = environment.cache / "benchmarks" / model.name
    shutil.rmtree(base, ignore_errors=True)
    parts = {model.name: "diffusion_models"}
    if model.sitting:
        parts |= {f"{model.name}_other": "diffusion_models", f"{model.name}_lora": "loras"}
    for name, folder in parts.items():
        (base / "models" / folder).mkdir(parents=True, exist_ok=True)
        link_file(standin(environment, name), base / "models" / folder / f"{name}.safetensors")
    (base / "custom_nodes").mkdir()
    link_folder(ROOT / "benchmarks" / "instruments", base / "custom_nodes" / "instruments")
    if pack != ROOT:
        link_folder(pack, base / "custom_nodes" / "comfyui-onediff-other")
    caches = base / "caches"
    caches.mkdir()
    variables = {"BENCHMARK_CACHES": str(caches), "TORCHINDUCTOR_CACHE_DIR": str(caches / "start")}
    variables["ONEDIFF_COMPILE_CACHE"] = str(caches / "pack")  # it is cleared between the ways
    try:
        with serve(environment, base, flags=FLAGS, variables=variables, pack=pack == ROOT) as server:
            if started:
                say(f"  Inductor started in {server.get_json('/benchmark/warm_up', timeout=600)['seconds']:.1f} s")
                server.get_json("/onediff/backends", timeout=600)  # the proof, once per machine and versions
            yield server
    finally:
        shutil.rmtree(caches, ignore_errors=True)


def combined(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of several of the same model and way: medians of what was timed, the most of what was counted; the rest
    is the first one's."""
    row = dict(rows[0], repeats=len(rows))
    for name in ("first_step_s", "first_compile_s", "sitting_compile_s", "step_ms", "ratio", "peak_mb"):
        values = [r[name] for r in rows if r[name] is not None]
        row[name] = statistics.median(values) if values else None
    for name in ("sitting_compiles", "graphs", "breaks", "recompiles", "later_compiles", "difference", "ratio_high"):
        row[name] = max((r[name] for r in rows if r[name] is not None), default=None)
    row["ratio_low"] = min(r["ratio_low"] for r in rows)
    row["steps_ms"] = [milliseconds for r in rows for milliseconds in r["steps_ms"]]
    return row


def measure(environment: Environment, models: Sequence[Model]) -> dict[str, Any]:
    """All rows, with the machine and the versions."""
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "flags": list(FLAGS), "rows": []}
    for model in models:
        repeats = []
        for repeat in range(model.repeats):
            say(f"{model.label} …" if model.repeats == 1 else f"{model.label}, {repeat + 1} of {model.repeats} …")
            with serve_for(environment, model) as server:
                result["machine"] = server.get_json("/benchmark/machine")
                repeats.append(Bench(server, model).rows())
        result["rows"] += [combined(rows) for rows in zip(*repeats, strict=True)]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="MODEL", help="this model; may be given several times")
    parser.add_argument("--quick", action="store_true", help="the small Flux alone, one round of steps, no sitting")
    parser.add_argument("--out", type=Path, help="the JSON file; with --only and --quick none is written by default")
    parser.add_argument(
        "--write", action="store_true", help="only write the tables of results/ into docs/benchmarks.md"
    )
    parser.add_argument("--host", type=Path, help="a ComfyUI folder to use with this Python; installs nothing")
    options = parser.parse_args()
    if options.write:
        write_tables(PAGE, RESULTS)
        return 0
    environment = chosen_environment(options.host)
    if isinstance(environment, int):
        return environment
    models = chosen(CUDA if sees_accelerator(environment.python) else CPU, options.only, options.quick)
    result = measure(environment, models)
    say("\n".join(("", *table(result), "", *claims(result))))
    out = options.out or (None if options.only or options.quick else RESULTS / f"{result['machine']['device']}.json")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def chosen(models: Sequence[Model], only: Sequence[str] | None, quick: bool) -> list[Model]:
    """The models that were asked for."""
    names = {model.name for model in models}
    wrong = set(only or ()) - names
    if wrong:
        raise console.CannotContinue(
            f"--only {wrong.pop()}: there is no such model; one of {', '.join(sorted(names))}."
        )
    if quick:
        return [
            dataclasses.replace(m, rounds=1, repeats=1, sitting=False)
            for m in models
            if m.name in (only or ["flux_small"])
        ]
    return [model for model in models if not only or model.name in only]


if __name__ == "__main__":
    sys.exit(console.run(main))
