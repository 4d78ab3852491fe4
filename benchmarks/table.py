"""The results as a Markdown table, in the terminal and in docs/benchmarks.md, and what they say in sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .cases import ALWAYS_COMPILED, AS_IT_COMES

BEGIN = "<!-- Written by `python3 benchmarks/side_by_side.py --write` from benchmarks/results; do not edit. -->"
END = "<!-- End of the benchmark. -->"

HEAD = (
    "model",
    "way",
    "first step s",
    "sitting: compiling s (compiles after the first picture)",
    "step ms",
    "ratio (range)",
    "graphs",
    "breaks",
    "peak MiB",
    "difference",
)


def table(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown, one row a model and way."""
    lines = [_line(HEAD), _line(["---"] * 2 + ["---:"] * (len(HEAD) - 2))]
    shown = None
    for row in result["rows"]:
        label, shown = ("" if row["model"] == shown else _label(row)), row["model"]
        lines.append(_line([label, *_cells(row)]))
    return lines


def _label(row: dict[str, Any]) -> str:
    repeats = row.get("repeats", 1)
    return row["label"] if repeats == 1 else f"{row['label']}; medians of {repeats}"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: dict[str, Any]) -> list[str]:
    sitting = "-"
    if row.get("sitting_compile_s") is not None:
        sitting = f"{row['sitting_compile_s']:.1f} ({row['sitting_compiles']:.0f})"
    difference = row.get("difference")
    return [
        row["way"],
        _number(row.get("first_step_s"), 1),
        sitting,
        _number(row["step_ms"], 1 if row["step_ms"] < 1000 else 0),
        f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})",
        _number(row.get("graphs"), 0),
        _number(row.get("breaks"), 0),
        _number(row.get("peak_mb"), 0),
        "-" if row["way"] == "uncompiled" or difference is None else f"{difference:.0e}",
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def claims(result: dict[str, Any]) -> list[str]:
    """What the rows say of this pack beside the others, with the figures."""
    lines = []
    by_model: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        by_model.setdefault(row["label"], {})[row["way"]] = row
    for label, rows in by_model.items():
        for ours in (rows[AS_IT_COMES], rows[ALWAYS_COMPILED]):
            for way in ("TorchCompileModel", "block by block"):
                said = [f"first step {ours['first_step_s'] / rows[way]['first_step_s']:.2f}"]
                if ours["sitting_compile_s"] is not None:
                    said.append(
                        f"compiling in the sitting {ours['sitting_compile_s'] / rows[way]['sitting_compile_s']:.2f}"
                    )
                said.append(f"step {ours['step_ms'] / rows[way]['step_ms']:.2f}")
                lines.append(f"- {label}: of {way}'s seconds {ours['way']} takes: {', '.join(said)}.")
            took = 1 / ours["ratio"]
            lines.append(f"- {label}: with {ours['way']} a step takes {took:.2f} times as long as uncompiled.")
    return lines


def section(results: Path) -> str:
    """The written part: a table for each device, or that it was not run there."""
    parts = [BEGIN]
    for device, name in (("cpu", "On a CPU"), ("cuda", "On an NVIDIA GPU")):
        file = results / f"{device}.json"
        if not file.is_file():
            parts.append(f"{name}: not run.")
            continue
        result = json.loads(file.read_text(encoding="utf-8"))
        machine = result["machine"]
        parts.append(
            f"{name}: {machine['name']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}, "
            f"torch {machine['torch']}, ComfyUI {machine['comfyui']}, `{' '.join(result['flags'])}`, {result['date']}."
        )
        parts.append("\n".join(table(result)))
    return "\n\n".join((*parts, END))


def with_section(page: str, results: Path) -> str:
    """A page's text with this part renewed.

    Raises:
        ValueError: when the page lacks one of the two comments.
    """
    if BEGIN not in page or END not in page:
        raise ValueError("The page lacks the two comments between which the benchmark's tables belong.")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    return f"{before}{section(results)}{after}"


def write_tables(page: Path, results: Path) -> None:
    """Renews a page's part from the JSON files in ``results``."""
    page.write_text(with_section(page.read_text(encoding="utf-8"), results), encoding="utf-8")
