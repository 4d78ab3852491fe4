"""What a workflow gains as a whole: its runs without the pack's nodes, with the attention patched, with all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from .console import duration

#: What a ratio of two times means: "faster", "slower" or "same". See measure/verdict.py.
Verdict = Callable[[float], str]


@dataclass
class WholeRuns:
    """Seconds from start to picture; a list holds what was measured by turns."""

    without: list[float] = field(default_factory=list)
    patched: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)
    first: float = 0.0
    """The first run with all nodes, in which blocks are compiled."""

    @property
    def round_seconds(self) -> float:
        return self.without[0] + self.patched[0] + self.together[0]


def seconds_of(entry: dict[str, Any]) -> float:
    """How long a run took, by the server's own clock: from a history entry's first message to its last."""
    stamps = [data["timestamp"] for _, data in entry["status"]["messages"] if data.get("timestamp")]
    return (max(stamps) - min(stamps)) / 1000


def gain_lines(runs: WholeRuns, record: dict[str, Any], verdict: Verdict) -> list[str]:
    """The runs as a table, and where the gain comes from.

    >>> runs = WholeRuns([11.2], [6.5], [6.4], first=30.0)
    >>> gain_lines(runs, {}, verdict)[2]
    'with all three nodes       6.4 s   1.75×'
    """
    without, patched, together = mean(runs.without), mean(runs.patched), mean(runs.together)
    compiling = (record.get("compile") or {}).get("seconds")
    of_it = f", {duration(compiling)} of it compiling" if compiling else ""
    return [
        f"without our nodes       {without:6.1f} s",
        f"with attention patched  {patched:6.1f} s   {without / patched:.2f}×",
        f"with all three nodes    {together:6.1f} s   {without / together:.2f}×",
        f"their first picture     {runs.first:6.1f} s{of_it}",
        "",
        _whole(without / together, verdict),
        _attention(without / patched, verdict),
        _compiled(patched / together, (record.get("speed") or {}).get("kept"), verdict),
    ]


def _whole(ratio: float, verdict: Verdict) -> str:
    if verdict(ratio) == "same":
        return "No gain here: with our nodes a picture takes as long as without them."
    if ratio < 1:
        return f"Slower here: with our nodes a picture takes {1 / ratio - 1:.0%} longer. Bypass them (Ctrl+B)."
    return f"With our nodes a picture is made {ratio:.2f} times as fast."


def _attention(ratio: float, verdict: Verdict) -> str:
    if verdict(ratio) == "same":
        return "Patching attention changes nothing here: ComfyUI's own attention is as fast."
    if ratio < 1:
        return f"Patched attention is {1 / ratio - 1:.0%} slower than ComfyUI's own here."
    return f"Patched attention alone brings {ratio:.2f}×: ComfyUI's own attention is slower on this machine."


def _compiled(ratio: float, kept: str | None, verdict: Verdict) -> str:
    if kept == "uncompiled":
        return "Compiling brings nothing here and was dropped; it cost time in the first picture."
    if verdict(ratio) == "same":
        return "Compiling brings nothing more here; it cost time in the first picture."
    if ratio < 1:
        return f"Compiling costs {1 / ratio - 1:.0%} here so far; it is still being timed."
    return f"Compiling brings {ratio:.2f}× on top of that."
