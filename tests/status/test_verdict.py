"""One verdict on what compiling gained: the record, its summary, the canvas, the file and the speed report agree."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
from onediff_pack.measure.verdict import verdict, within_spread
from onediff_pack.speed_report.figures import Sampling, SpeedReport
from onediff_pack.speed_report.words import headline
from onediff_pack.status import Hub

from scripts.environment import ROOT

LINES = """
import { readFileSync } from "node:fs";
import { describeReceipt, shapeReceipt } from "./web/receipt/receipt.js";
import { describe } from "./web/status/text.js";
import { createWords } from "./web/words.js";
const words = createWords({ en: JSON.parse(readFileSync("locales/en/main.json", "utf8")) }, "en");
const line = (record) => `${describe(record, words).symbol} ${describe(record, words).text}`;
const receipt = (record) => describeReceipt(shapeReceipt(record, "on"), words, false).text;
const records = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(records.map((record) => [line(record), receipt(record)])));
"""


@pytest.mark.parametrize(
    ("speedup", "is_"),
    [
        (1.62, "faster"),
        (1.04, "faster"),
        (1.02, "same"),
        (1.0, "same"),
        (0.98, "same"),
        (0.96, "slower"),
        (0.01, "slower"),
    ],
)
def test_what_lies_within_three_percent_is_noise(speedup, is_):
    assert verdict(speedup) == is_


#: Milliseconds of a compiled step, beside 100 uncompiled, and which way is kept; then what each place says of it.
SAID = {
    (50.0, "compiled"): (
        "compiled · inductor · 2.00× · 3 blocks",
        "▲ compiled · 2.00× · 50 ms a compiled step · inductor",
        "author measured 2.00× · 50 ms a compiled step",
        "2.00× as fast compiled",
    ),
    (98.0, "compiled"): (
        "compiled, no gain · inductor · 1.02× · 3 blocks",
        "= compiled, no gain · 1.02× · 98 ms a compiled step · inductor",
        "author measured 1.02× · 98 ms a compiled step",
        "Compiling makes no difference (1.02×)",
    ),
    (125.0, "compiled"): (
        "compiled, but slower · inductor · 0.80× · 3 blocks",
        "▼ compiled, but slower · 0.80× · 125 ms a compiled step · inductor",
        "author measured 0.80× · 125 ms a compiled step",
        "Compiled steps take 25 % longer",
    ),
    (125.0, "uncompiled"): (
        "uncompiled: compiled steps took 25 % longer",
        "▽ off: compiled is 25 % slower · 100 ms an uncompiled step",
        "author: compiled 25 % slower · 100 ms an uncompiled step",
        "Compiled steps take 25 % longer",
    ),
    (250.0, "uncompiled"): (
        "uncompiled: compiled steps took 2.5 times as long",
        "▽ off: compiled is 2.50× slower · 100 ms an uncompiled step",
        "author: compiled 2.50× slower · 100 ms an uncompiled step",
        "Compiled steps take 2.5 times as long",
    ),
}


def test_record_summary_canvas_file_and_report_agree():
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    reports = [SpeedReport((Sampling(False, (100.0,)), Sampling(True, (ms,))), 8) for ms, _ in SAID]
    records = [record(report, kept) for report, (_, kept) in zip(reports, SAID, strict=True)]
    command = [node, "--input-type=module", "--eval", LINES]
    ran = subprocess.run(command, input=json.dumps(records), cwd=ROOT, capture_output=True, text=True, check=True)
    shown = zip(records, json.loads(ran.stdout), reports, strict=True)
    said = [(one["summary"], *lines, headline(report)) for one, lines, report in shown]
    assert said == list(SAID.values())


def test_a_noisy_report_says_so_in_the_summary_too():
    made = Hub().record("a", "1")
    made.update(state="compiled", speed={"speedup": 1.07, "verdict": None, "noisy": True})
    assert made["summary"] == "compiled · no backend · noisy, no clear difference · 0 blocks"


def record(report: SpeedReport, kept: str) -> dict[str, Any]:
    made = Hub().record("a", "1")
    assert report.compiled is not None
    made.update(
        state=kept,
        backend={"used": "inductor"},
        compile={"regions": 3, "regions_compiled": 3, "regions_uncompiled": []},
        speed={
            "eager_ms": report.uncompiled.median_ms,
            "compiled_ms": report.compiled.median_ms,
            "speedup": report.speedup,
            "verdict": report.outcome,
            "kept": kept,
        },
    )
    return made.data


@pytest.mark.parametrize(
    ("speedup", "spread", "nothing"),
    [(1.1, (0.95, 1.4), True), (1.6, (1.5, 1.7), False), (0.8, (0.7, 1.05), True), (0.5, (0.45, 0.6), False)],
)
def test_a_gain_within_the_spread_of_what_was_compared_says_nothing(speedup, spread, nothing):
    assert within_spread(speedup, spread) is nothing
