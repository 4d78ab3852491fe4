"""Draws a speed report. With matplotlib; where that is missing, as text on a plain picture."""

from __future__ import annotations

import importlib.util
import itertools
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..measure.verdict import verdict
from ..status.installing import with_python
from .figures import SpeedReport, duration
from .language import ENGLISH, Say, language_of
from .words import breakeven_line, cost_line, footer, headline, place, spread, subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1200, 675

PAPER, INK, FAINT, GRID = "#fbfbfa", "#1f2328", "#656d76", "#e4e4e0"
UNCOMPILED, COMPILED, WITHOUT = "#c2571a", "#0b6e99", "#7d6b9e"

#: Why the picture holds text only.
NO_MATPLOTLIB = "matplotlib is not installed, so this is text only. “pip install matplotlib” brings the plot."

#: Letters of a title that the narrower plot has room for, and of the headline.
TITLE, HEADLINE = 38, 41

#: Steps higher than this many times the larger median are marked at the edge, so that one hiccup hides nothing.
CLIP = 2.2


def plot(report: SpeedReport, locale: str = "en") -> tuple[np.ndarray, str | None]:
    """The report as a picture, shape (675, 1200, 3), values 0 to 255; and a note when it is not what it could be."""
    if importlib.util.find_spec("matplotlib") is None:
        return text_picture(report), with_python(NO_MATPLOTLIB)
    return drawing(report, _drawable(language_of(locale))), None


def _drawable(say: Say) -> Say:
    """The language with a font that is installed here; English where none has its letters."""
    if not say.fonts:
        return say
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    found = [name for name in say.fonts if name in installed]
    return replace(say, style={"family": [*found[:1], "DejaVu Sans"]}) if found else ENGLISH


def drawing(report: SpeedReport, say: Say = ENGLISH) -> np.ndarray:
    """The picture as matplotlib draws it. Nothing of matplotlib's global state is read or changed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    _heading(figure, report, say)
    _steps(figure.add_axes((0.08, 0.185, 0.395, 0.505)), report, say)
    _pictures(figure.add_axes((0.645, 0.185, 0.315, 0.505)), report, say)
    for line, y in zip(footer(report, say), (0.058, 0.025), strict=True):
        _write(figure, 0.04, y, line, size=10, color=FAINT, **say.style)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


# With matplotlib.


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    # A dollar sign would start mathematics.
    figure.text(x, y, text.replace("$", r"\$"), va="baseline", **{"color": INK, **style})


def _heading(figure: Figure, report: SpeedReport, say: Say) -> None:
    outcome = report.outcome if report.total_speedup is None else verdict(report.total_speedup)
    good = INK if report.noisy else {"faster": COMPILED, "slower": UNCOMPILED}.get(str(outcome), INK)
    said = headline(report, say)
    size = 27 * min(1.0, HEADLINE / len(said))
    _write(figure, 0.04, 0.905, said, size=size, weight="bold", color=good, **say.style)
    _write(figure, 0.04, 0.856, place(report, say), size=11.5, weight="bold", **say.style)
    _write(figure, 0.04, 0.822, subject(report, say), size=11.5, **say.style)
    figure.text(0.96, 0.915, "OneDiff · Speed Report", size=11.5, ha="right", va="baseline", color=FAINT)


def _title(axes: Axes, say: Say, title: str, below: str = "") -> None:
    """A title in bold and one line below it. A long title is smaller, so that it ends within the picture."""
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "baseline", **say.style}
    axes.annotate(
        title, (0, 1), xytext=(0, 34), size=12 * min(1.0, TITLE / len(title)), color=INK, weight="bold", **place
    )
    axes.annotate(below, (0, 1), xytext=(0, 15), size=10.5, color=FAINT, **place)


def _bare(axes: Axes, say: Say, title: str, below: str) -> None:
    axes.set_facecolor(PAPER)
    _title(axes, say, title, below)
    axes.tick_params(length=0, labelsize=10, labelcolor=FAINT)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def _name(axes: Axes, say: Say, across: str, up: str) -> None:
    """What the axes count."""
    axes.set_xlabel(across, size=10, color=FAINT, labelpad=6, **say.style)
    axes.set_ylabel(up, size=10, color=FAINT, labelpad=4, **say.style)


def _steps(axes: Axes, report: SpeedReport, say: Say) -> None:
    """Each timed step as a dot, in the order in which they ran, with the medians."""
    top, unit, divisor = _scale(report)
    many = sum(len(sampling.steps_ms) for sampling in report.samplings)
    clipped = say("longer") if any(ms / divisor > top for s in report.samplings for ms in s.steps_ms) else ""
    present = [] if report.without is None else [(report.without, WITHOUT, say("without"))]
    present.append((report.uncompiled, UNCOMPILED, say("patched" if present else "uncompiled")))
    if report.compiled is not None:
        present.append((report.compiled, COMPILED, say("compiled")))
    middle = ", ".join(f"{name} {spread(t.low_ms / divisor, t.high_ms / divisor, say)}" for t, _, name in present[-2:])
    below = say("halves", count=many, ways=middle, longer=clipped)
    _bare(axes, say, say("time_of_step", unit=say(unit)), below)
    start, ends = 0, []
    for sampling in report.samplings:
        color = WITHOUT if sampling.without else COMPILED if sampling.compiled else UNCOMPILED
        places = np.arange(start, start + len(sampling.steps_ms)) + 0.5
        values = np.asarray(sampling.steps_ms) / divisor
        high = values > top
        axes.plot(places[~high], values[~high], "o", color=color, markersize=5.5, alpha=0.75, markeredgewidth=0)
        axes.plot(places[high], np.full(high.sum(), top * 0.985), "^", color=color, markersize=7, markeredgewidth=0)
        start += len(sampling.steps_ms)
        ends.append(start)
    for end in ends[:-1]:
        axes.axvline(end, color=GRID, linewidth=1)
    heights = _apart_labels([times.median_ms / divisor for times, _, _ in present], top * 0.105)
    for (times, color, name), height in zip(present, heights, strict=True):
        axes.axhline(times.median_ms / divisor, color=color, linewidth=1.6, alpha=0.9)
        axes.annotate(
            f"{duration(times.median_ms)}\n{name}",
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(9, 0),
            textcoords="offset points",
            color=color,
            size=10.5,
            weight="bold",
            va="center",
            linespacing=1.25,
            annotation_clip=False,
            **say.style,
        )
    axes.set_xlim(0, max(start, 1))
    axes.set_ylim(0, top)
    axes.set_xticks([])
    _name(axes, say, say("in_order"), say(unit))


def _scale(report: SpeedReport) -> tuple[float, str, float]:
    """Upper end of the step axis, its unit, and the milliseconds of that unit."""
    ways = (report.without, report.uncompiled, report.compiled)
    medians = [times.median_ms for times in ways if times is not None]
    unit, divisor = ("seconds", 1e3) if max(medians) >= 2000 else ("milliseconds", 1.0)
    highest = max(ms for sampling in report.samplings for ms in sampling.steps_ms)
    return max(min(highest * 1.12, max(medians) * CLIP), max(medians) * 1.25) / divisor, unit, divisor


def _apart_labels(heights: list[float], gap: float) -> list[float]:
    """Heights of labels, moved away from each other until none overlap: ``[5, 5]``, 2 gives ``[6, 4]``."""
    order = sorted(range(len(heights)), key=lambda place: (-heights[place], place))
    apart = list(heights)
    for _ in range(8 * len(heights)):
        for above, below in itertools.pairwise(order):
            short = gap - (apart[above] - apart[below])
            if short > 1e-9 * gap:
                apart[above] += short / 2
                apart[below] -= short / 2
    return apart


def _pictures(axes: Axes, report: SpeedReport, say: Say) -> None:
    """Time over pictures both ways, compiling included, and where the lines meet."""
    uncompiled, compiled = report.picture_seconds
    if compiled is None or report.cost is None:
        axes.set_axis_off()
        _title(axes, say, say("why"))
        reason = textwrap.fill(report.reason or say("no_reason"), 50, max_lines=12, placeholder=" …")
        axes.text(
            0,
            1.03,
            reason.replace("$", r"\$"),
            transform=axes.transAxes,
            va="top",
            size=11,
            linespacing=1.5,
            **say.style,
        )
        return
    breakeven = report.breakeven_images
    pictures = _nice(max(4.0, 2 * breakeven)) if breakeven is not None else 10.0
    unit, divisor = _unit(max(uncompiled, compiled) * pictures + report.cost.seconds)
    line = breakeven_line(report, say)
    _bare(axes, say, line[0].upper() + line[1:], cost_line(report, say))
    ends = (0.0, pictures)
    lines = ((uncompiled, 0.0, UNCOMPILED), (compiled, report.cost.seconds, COMPILED))
    for slope, offset, color in lines:
        axes.plot(ends, [(offset + slope * n) / divisor for n in ends], color=color, linewidth=2.4)
    highest = max(offset + slope * pictures for slope, offset, _ in lines) / divisor
    axes.plot(0, report.cost.seconds / divisor, "o", color=COMPILED, markersize=6, clip_on=False)
    if breakeven is not None:
        meeting = breakeven * uncompiled / divisor
        axes.plot([breakeven, breakeven], [0, meeting], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(breakeven, meeting, "o", ms=9, mfc=PAPER, mec=INK, mew=1.8)
    axes.set_xlim(0, pictures)
    axes.set_ylim(0, highest * 1.05 or 1)
    _name(axes, say, say("pictures_of", steps=say.counted(report.steps, "steps", "step")), say(unit))


def _nice(value: float) -> float:
    """The next round number: ``_nice(13)`` is 15."""
    size = 10 ** np.floor(np.log10(value))
    return float(next(step * size for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * size >= value * 0.999))


def _unit(seconds: float) -> tuple[str, float]:
    if seconds < 2:
        return "milliseconds", 1e-3
    if seconds < 240:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


# Without.


def text_lines(report: SpeedReport) -> list[str]:
    """The figures of the report as lines of text."""
    lines = [headline(report), place(report), subject(report), ""]
    patched = "uncompiled" if report.without is None else "patched, uncompiled"
    for name, times in (("without", report.without), (patched, report.uncompiled), ("compiled", report.compiled)):
        if times is not None:
            lines.append(f"{name}: {duration(times.median_ms)} a step (median of {times.steps} steps)")
    said = [cost_line(report), breakeven_line(report), report.reason or "", "", *footer(report)]
    wrapped = [part for line in said for part in textwrap.wrap(line, 100) or [""]]
    return [*lines, *wrapped, "", *textwrap.wrap(with_python(NO_MATPLOTLIB), 100)]


def text_picture(report: SpeedReport) -> np.ndarray:
    """The figures as text, with Pillow alone."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    try:
        large, small = ImageFont.load_default(34), ImageFont.load_default(20)
    except TypeError:  # Pillow before 10.1 has one size
        large = small = ImageFont.load_default()
    # The font at hand may be Latin-1 only.
    y = 40
    for number, line in enumerate(text_lines(report)):
        plain = line.translate(_PLAIN).encode("latin-1", "replace").decode("latin-1")
        draw.text((48, y), plain, fill=INK, font=small if number else large)
        y += 28 if number else 58
    return np.asarray(image).copy()


_PLAIN = str.maketrans({"“": '"', "”": '"', "‖": "|", "₂": "2", "…": "..."})
