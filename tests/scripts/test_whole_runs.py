"""What the demo says of its runs: times, ratio, and where the gain comes from, also when there is none."""

from __future__ import annotations

import pytest
from onediff_pack.measure.verdict import verdict

from scripts.whole_runs import WholeRuns, gain_lines, seconds_of


def said(without: list[float], patched: list[float], together: list[float], kept: str | None = None) -> str:
    record = {"speed": {"kept": kept}, "compile": {"seconds": 24.4}}
    return "\n".join(gain_lines(WholeRuns(without, patched, together, first=31.0), record, verdict))


def test_times_and_ratios_are_of_means_and_the_first_picture_stands_apart():
    text = said([11.0, 11.4], [6.4, 6.6], [6.3, 6.5], "uncompiled")
    assert "without our nodes         11.2 s" in text
    assert "with attention patched     6.5 s   1.72×" in text
    assert "with all three nodes       6.4 s   1.75×" in text
    assert "their first picture       31.0 s, 24 s of it compiling" in text
    assert "made 1.75 times as fast" in text


@pytest.mark.parametrize(
    ("runs", "kept", "sentences"),
    [
        ((11.2, 6.5, 6.4), "uncompiled", ("alone brings 1.72×", "brings nothing here and was dropped")),
        ((11.2, 6.5, 6.4), "compiled", ("alone brings 1.72×", "brings nothing more here")),
        ((10.0, 9.9, 7.0), "compiled", ("1.43 times as fast", "changes nothing here", "brings 1.41× on top")),
        ((10.0, 10.1, 9.9), "uncompiled", ("No gain here", "changes nothing here", "brings nothing here")),
        ((10.0, 10.0, 12.0), None, ("20% longer", "Bypass them", "changes nothing here", "costs 20% here so far")),
        ((10.0, 12.5, 12.5), "uncompiled", ("25% longer", "25% slower than ComfyUI's own")),
    ],
)
def test_where_it_comes_from_is_said_also_when_nothing_comes(runs, kept, sentences):
    without, patched, together = ([seconds] for seconds in runs)
    text = said(without, patched, together, kept)
    assert all(sentence in text for sentence in sentences), text


def test_a_run_lasts_from_the_servers_first_message_to_its_last():
    messages = [["execution_start", {"timestamp": 1_000}], ["execution_cached", {"timestamp": 1_010}]]
    entry = {"status": {"messages": [*messages, ["execution_success", {"timestamp": 12_200}]]}}
    assert seconds_of(entry) == 11.2
