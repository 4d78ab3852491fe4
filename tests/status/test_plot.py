"""The picture of the speed report: its size, its words, and that every kind of result can be drawn."""

from __future__ import annotations

import sys
from dataclasses import replace
from string import Formatter
from types import SimpleNamespace

import numpy as np
import pytest
from onediff_pack.speed_report import plot
from onediff_pack.speed_report import words as plot_words
from onediff_pack.speed_report.difference import Difference
from onediff_pack.speed_report.figures import CompileCost, Sampling, SpeedReport
from onediff_pack.speed_report.language import CHINESE, ENGLISH, language_of
from onediff_pack.status.summary import longer

FASTER = SpeedReport(
    (
        Sampling(False, (118.0, 119, 121)),
        Sampling(True, (73.0, 72, 74)),
        Sampling(False, (120.0,)),
        Sampling(True, (73.0,)),
    ),
    steps=20,
    cost=CompileCost(41.3, True, 38, 36, 17),
    error=Difference(0.003, 0.0012),
    repeat=Difference(0.0, 0.0),
    model={"class": "UNetModel", "parameters": 859_520_964, "dtype": "float16"},
    machine={"device": "A card with $ and $ in its name", "torch": "2.11.0", "onediff": "1.2.0", "comfyui": "0.30.0"},
    backend={"used": "inductor"},
    setup={
        "latent": [[1, 4, 64, 64]],
        "pixels": [512, 512],
        "processors": ["sdpa"],
        "sampler": "euler",
        "cfg": 7.0,
    },
    measured_at="2026-01-02T03:04:05+00:00",
)
SLOWER = replace(FASTER, samplings=(Sampling(False, (100.0,)), Sampling(True, (300.0,))))
SAME = replace(FASTER, samplings=(Sampling(False, (100.0,)), Sampling(True, (101.0,))))
AT_ONCE = replace(FASTER, cost=CompileCost(0.0, False, 1, 1, 1, "warm"))
LONG = replace(
    FASTER, samplings=(Sampling(False, (9e5, 9e7)), Sampling(True, (3e5,))), cost=CompileCost(9e6, True, 1, 1, 1)
)
PATCHED = replace(FASTER, samplings=(Sampling(False, (240.0, 242), without=True), *FASTER.samplings))
NOISY = replace(FASTER, samplings=(Sampling(False, (90.0, 120, 150, 100)), Sampling(True, (80.0, 110, 140, 95))))
NOTHING = SpeedReport((Sampling(False, (0.01,)),), 1, reason="words " * 200)


@pytest.mark.parametrize("report", [FASTER, SLOWER, SAME, AT_ONCE, LONG, PATCHED, NOISY, NOTHING])
@pytest.mark.parametrize("draw", [plot.drawing, plot.text_picture])
def test_every_kind_of_result_is_drawn(report, draw):
    if draw is plot.drawing:
        pytest.importorskip("matplotlib")
    picture = draw(report)
    assert picture.shape == (675, 1200, 3)
    assert picture.dtype == np.uint8
    assert (picture[:4] == picture[0, 0]).all(), "a margin is kept at the top"
    assert (picture[:, -4:] == picture[0, 0]).all(), "nothing runs out at the right"
    assert (picture != picture[0, 0]).any(axis=-1).mean() > 0.005


@pytest.mark.parametrize(
    "report, units",
    [
        (FASTER, ["milliseconds", "minutes"]),
        (LONG, ["seconds", "hours"]),
        (NOISY, ["milliseconds", "seconds"]),
    ],
)
def test_both_plots_say_what_their_axes_count_and_nothing_is_cut(report, units):
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn = []

    class Canvas(FigureCanvasAgg):
        def draw(self):
            super().draw()
            drawn.append(self.figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg", Canvas)
        plot.drawing(report)
    left, right = drawn[0].axes
    assert [axes.get_ylabel() for axes in (left, right)] == units
    assert [axes.get_xlabel() for axes in (left, right)] == [
        "steps, in the order in which they ran",
        "pictures of 20 steps",
    ]
    for axes in (left, right):
        for label in (axes.xaxis.label, axes.yaxis.label):
            box = label.get_window_extent()
            assert 0 < box.x0 < box.x1 < plot.WIDTH and 0 < box.y0 < box.y1 < plot.HEIGHT
            for tick in axes.get_yticklabels():
                assert not tick.get_text() or not box.overlaps(tick.get_window_extent())
    texts = {text.get_text(): text.get_window_extent() for text in drawn[0].texts}
    assert not texts[plot_words.headline(report)].overlaps(texts["OneDiff · Speed Report"])
    values = left.get_window_extent().x1
    assert right.yaxis.label.get_window_extent().x0 > values + 60, "beside the medians' names"


def test_three_ways_have_a_headline_of_all_nodes_and_its_parts_below():
    assert plot_words.headline(PATCHED) == "3.30× as fast with all nodes"
    for without, said in (
        (48.7, "With all nodes, steps take 50 % longer"),
        (24.3, "With all nodes, steps take 3.0 times as long"),
        (73.7, "All nodes together make no difference (1.01×)"),
    ):
        samplings = (Sampling(False, (without,), without=True), *FASTER.samplings)
        assert plot_words.headline(replace(FASTER, samplings=samplings)) == said
    assert plot_words.place(PATCHED) == "attention 2.02×, compiled 1.64× · A card with $ and $ in its name"
    assert plot_words.headline(PATCHED, CHINESE) == "使用所有节点速度为 3.30 倍"
    assert plot_words.place(FASTER) == "A card with $ and $ in its name"
    lines = plot.text_lines(PATCHED)
    assert "without: 241 ms a step (median of 2 steps)" in lines
    assert "patched, uncompiled: 120 ms a step (median of 4 steps)" in lines


def test_both_ways_have_their_colour_and_nothing_of_it_without_compiled_steps():
    pytest.importorskip("matplotlib")

    def pixels(report, color):
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        return (np.abs(plot.drawing(report).astype(int) - rgb).max(axis=-1) < 12).sum()

    assert pixels(FASTER, plot.COMPILED) > 500
    assert pixels(FASTER, plot.UNCOMPILED) > 500
    assert pixels(NOTHING, plot.COMPILED) == 0


def test_the_words():
    assert plot_words.headline(FASTER) == "1.64× as fast compiled"
    assert plot_words.headline(SLOWER) == "Compiled steps take 3.0 times as long"
    assert plot_words.headline(NOTHING) == "Nothing was compiled"
    assert plot_words.subject(FASTER) == (
        "UNetModel · 860 M parameters · float16 · 512×512 pixels, latent 1×4×64×64 · attention sdpa"
        " · euler, 20 steps, cfg 7"
    )
    assert plot_words.cost_line(FASTER) == "compiling took 41 s · 36 of 38 blocks"
    assert plot_words.cost_line(AT_ONCE) == "compiling took 0.0 s (in an earlier run) · 1 block"
    assert plot_words.breakeven_line(FASTER) == "earned back after 45 pictures"
    assert plot_words.breakeven_line(SLOWER) == "compiling is never earned back"
    assert plot_words.breakeven_line(AT_ONCE) == "earned back at once"
    difference, machine = plot_words.footer(FASTER)
    assert difference == (
        "Difference of the final latents, compiled to uncompiled: 1.2e-03 relative, 3.0e-03 at most; "
        "two uncompiled runs: none."
    )
    assert machine == "backend inductor · OneDiff 1.2.0 · PyTorch 2.11.0 · ComfyUI 0.30.0 · 2026-01-02"


def test_checkpoint_and_machine_are_named_below_the_headline():
    named = replace(FASTER, model=FASTER.model | {"file": "sd15.safetensors"})
    assert plot_words.place(named) == "sd15.safetensors · A card with $ and $ in its name"
    assert plot_words.place(FASTER) == "A card with $ and $ in its name"
    assert plot.text_lines(named)[1] == plot_words.place(named)


def test_steps_that_overlap_read_as_noisy_and_it_is_not_clear_what_they_earn():
    noisy = NOISY
    assert noisy.noisy and noisy.outcome == "faster"
    assert plot_words.headline(noisy) == "Noisy: what compiling does is not clear (1.07×)"
    assert plot_words.breakeven_line(noisy) == "not clear whether it is earned back"
    assert plot_words.headline(FASTER) == "1.64× as fast compiled"
    slower = replace(FASTER, samplings=tuple(replace(one, compiled=not one.compiled) for one in noisy.samplings))
    assert plot_words.headline(slower).startswith("Noisy")
    assert plot_words.breakeven_line(slower) == "not clear whether it is earned back"


def test_where_it_is_not_clear_what_compiling_does_what_attention_gains_comes_first():
    steps = (Sampling(False, (90.0, 120, 150, 100)), Sampling(True, (80.0, 110, 140, 95)))
    noisy = replace(FASTER, samplings=(Sampling(False, (180.0, 182, 185), without=True), *steps))
    assert noisy.noisy and not noisy.patch_noisy
    assert plot_words.headline(noisy) == "1.65× as fast with patched attention"
    assert plot_words.place(noisy).startswith("attention 1.65×, compiled: noisy, no clear difference (1.07×) · ")
    assert noisy.total_speedup == noisy.patch_speedup
    assert noisy.verdict.startswith(
        "Patched attention makes it 1.65 times as fast: without these nodes a step takes 182 ms"
    )
    assert "Noisy, no clear difference (1.07×)" in noisy.verdict
    both = replace(noisy, samplings=(Sampling(False, (100.0, 120, 140), without=True), *steps))
    assert both.patch_noisy
    assert plot_words.headline(both) == "Noisy: what compiling does is not clear (1.07×)"


def test_without_matplotlib_the_figures_are_there_as_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    picture, note = plot.plot(FASTER)
    assert picture.shape == (675, 1200, 3)
    assert "pip install matplotlib" in note
    assert "uncompiled: 120 ms a step (median of 4 steps)" in plot.text_lines(FASTER)


def test_the_global_state_of_matplotlib_is_left_alone():
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    plot.drawing(FASTER)
    assert dict(matplotlib.rcParams) == before
    assert not sys.modules.get("matplotlib.pyplot") or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(("value", "nice"), [(13, 15), (4, 4), (92, 100), (0.7, 0.8), (1000, 1000)])
def test_axes_end_at_round_numbers(value, nice):
    assert plot._nice(value) == pytest.approx(nice)


def test_labels_are_moved_apart_in_their_order():
    assert plot._apart_labels([5, 5], 2) == [6, 4]
    assert plot._apart_labels([4, 5], 2) == [3.5, 5.5]
    assert plot._apart_labels([1, 9], 2) == [1, 9]


def test_the_subject_names_size_and_processors():
    said = plot_words.subject(FASTER)
    assert "512×512 pixels, latent 1×4×64×64" in said
    assert "attention sdpa" in said
    many = replace(FASTER, setup=FASTER.setup | {"processors": ["diffusers/AttnProcessor2_0", "custom/mine:Windowed"]})
    assert "attention by 2 patched processors" in plot_words.subject(many)
    assert "attention" not in plot_words.subject(NOTHING)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (71.62, 74.4, "71.6 to 74.4"),
        (118, 121.4, "118 to 121"),
        (3, 3.25, "3 to 3.25"),
        (99.94, 1234.4, "99.9 to 1234"),
    ],
)
def test_a_spread_has_three_digits(low, high, said):
    assert plot_words.spread(low, high) == said


def test_both_languages_have_the_same_texts_with_the_same_figures():
    fields = [
        {key: {name for _, name, _, _ in Formatter().parse(text) if name} for key, text in say.texts.items()}
        for say in (ENGLISH, CHINESE)
    ]
    assert fields[0] == fields[1]


def test_a_chinese_page_gets_a_chinese_plot_where_a_font_has_the_letters(monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.font_manager import fontManager

    assert language_of("zh-TW") is CHINESE and language_of("pt-BR") is ENGLISH
    assert plot_words.headline(FASTER, CHINESE) == "编译后速度为 1.64 倍"
    assert plot_words.cost_line(FASTER, CHINESE) == "编译用时 41 秒 · 38 个块中的 36 个"
    assert plot_words.breakeven_line(FASTER, CHINESE) == "45 张图片后收回编译成本"
    monkeypatch.setattr(fontManager, "ttflist", [])
    assert plot._drawable(CHINESE) is ENGLISH
    monkeypatch.setattr(fontManager, "ttflist", [SimpleNamespace(name="SimHei")])
    assert plot._drawable(CHINESE).style == {"family": ["SimHei", "DejaVu Sans"]}


@pytest.mark.parametrize(
    ("speedup", "said"),
    [(0.8, "25 % longer"), (0.51, "96 % longer"), (0.5, "2.0 times as long"), (0.4, "2.5 times as long")],
)
def test_how_much_longer_is_said_in_per_cent_up_to_twice(speedup, said):
    assert longer(speedup) == said
    slower = replace(FASTER, samplings=(Sampling(False, (100 * speedup,)), Sampling(True, (100.0,))))
    assert plot_words.headline(slower) == f"Compiled steps take {said}"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (999, "999"),
        (1000, "1.0 k"),
        (9_940, "9.9 k"),
        (10_000, "10 k"),
        (1_000_000, "1.0 M"),
        (859_520_964, "860 M"),
        (1_000_000_000, "1.0 B"),
        (12_000_000_000, "12 B"),
    ],
)
def test_parameters_are_counted_in_the_largest_unit(number, said):
    assert plot_words.parameters_short(number) == said


def test_what_is_not_there_is_left_out_or_named():
    assert (plot_words.cost_line(NOTHING), plot_words.breakeven_line(NOTHING)) == ("", "")
    assert plot_words.error_line(NOTHING) == "Uncompiled steps only; there is nothing to compare."
    assert plot_words.breakeven_line(SAME) == "compiling earns nothing back"
    assert plot_words.breakeven_line(replace(FASTER, cost=CompileCost(0.047, True, 1, 1, 1))) == (
        "earned back after 1 picture"
    )
    assert plot_words.breakeven_line(replace(FASTER, cost=CompileCost(2000.0, True, 1, 1, 1))) == (
        "earned back after 2,151 pictures"
    )
    assert (
        plot_words.cost_line(replace(FASTER, cost=CompileCost(100.0, True, 1, 1, 1)))
        == "compiling took 100 s · 1 block"
    )
    apart = replace(FASTER, error=Difference(0.5, float("inf")), repeat=None)
    assert plot_words.error_line(apart).endswith("compiled to uncompiled: NaN, Inf or another shape.")
