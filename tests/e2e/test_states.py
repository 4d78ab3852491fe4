"""A contact sheet: every state of the record on the real canvas, at the nodes' smallest width.

Both renderers, light and dark, three zooms, English and Chinese. The pictures lie in ``.cache/screens``; the texts are
kept in ``states.json`` beside this file.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from editor import CHECK, PATCH, RENDERERS, keep_picture, open_editor, set_setting, states, use_language, use_renderer

TEXTS = json.loads(Path(__file__).with_name("states.json").read_text(encoding="utf-8"))
PALETTES = ("dark", "light")
ZOOMS = (0.6, 1.0, 1.8)

#: Each renderer, palette and language once in an ordinary run, in all combinations with --all.
ORDINARY = {("classic", "dark", "en"), ("nodes2", "light", "zh")}
COMBINATIONS = [
    pytest.param(*combination, marks=() if combination in ORDINARY else pytest.mark.long)
    for combination in itertools.product(RENDERERS, PALETTES, TEXTS)
]
COLUMNS, GAP = 6, 36

#: Which node a state is seen on, where that is not the compile node.
NODES = {
    "patched": PATCH,
    "patchedOddly": PATCH,
    "rejected": PATCH,
    **dict.fromkeys(("autoDeciding", "autoChosen", "autoApproximate", "autoSame", "autoLeft", "autoUntried"), PATCH),
    "checked": CHECK,
    "findings": CHECK,
    "checking": CHECK,
}
NODES |= dict.fromkeys(("patchNotUsed", "patchCalledAround", "patchOverridden", "patchInPart"), PATCH)
NODES |= dict.fromkeys(("held", "heldCancelled"), PATCH)

#: States that a node has by its place in the graph or its file: name → record, and what makes it so.
PLACED = {
    "didNotRun": {"record": "compiled", "behind": "stopping"},
    "stopping": {"record": "failed", "type": CHECK},
    "switchedOff": {"record": "compiled", "mode": 4},
    "authored": {"record": None, "receipt": "compiled"},
}

# One node a state, at its smallest size.
BUILD = """([records, types, placed, columns, gap]) => {
    app.graph.clear();
    records = { ...records };
    types = { ...types };
    for (const [name, { record, type }] of Object.entries(placed)) {
        records[name] = record && records[record];
        if (type) types[name] = type;
    }
    const size = LiteGraph.createNode("OneDiffCompile").computeSize();
    window.made = Object.entries(records).map(([name, record], index) => {
        const node = LiteGraph.createNode(types[name] ?? "OneDiffCompile");
        node.pos = [(index % columns) * (size[0] + gap), Math.floor(index / columns) * (size[1] + 80)];
        node.title = name;
        app.graph.add(node);
        node.setSize(node.computeSize());
        return { name, node, record };
    });
    const made = Object.fromEntries(window.made.map(({ name, node }) => [name, node]));
    for (const [name, { behind, mode, receipt }] of Object.entries(placed)) {
        if (behind) made[behind].connect(0, made[name], 0);
        if (mode) made[name].mode = mode;
        if (!receipt) continue;
        const { speed, machine, measured_at } = records[receipt];
        const theirs = { ...machine, device: "NVIDIA RTX 4090" };
        made[name].properties.onediff = { summary: "compiled", speed, machine: theirs, measured_at };
    }
    const rows = Math.ceil(window.made.length / columns);
    return { width: columns * (size[0] + gap), height: rows * (size[1] + 80) };
}"""

# Their records arrive; the host has given the nodes their sizes by now.
TELL = """() => {
    for (const made of window.made) {
        [made.width, made.height] = made.node.size;
        if (!made.record) continue;
        const detail = { ...made.record, workflow: String(app.graph.id), node: String(made.node.id) };
        window.comfyAPI.api.api.dispatchEvent(new CustomEvent("onediff.status", { detail }));
    }
}"""

LOOK = """([scale, x, y]) => {
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [x / scale, y / scale];
    app.canvas.setDirty(true, true);
}"""

# What is wrong with the lines, in words; and what they say.
READ = """() => {
    const wrong = [];
    const texts = {};
    const scale = app.canvas.ds.scale;
    for (const { name, node, width, height } of window.made) {
        const { element } = node.widgets.at(-1);
        const box = element.getBoundingClientRect();
        const words = element.querySelector(".onediff-status-words").getBoundingClientRect();
        const parts = [...element.querySelectorAll(".onediff-status-part")];
        const shown = parts.filter(part => part.getBoundingClientRect().top < words.bottom - 1);
        texts[name] = element.title.split("\\n")[0];
        if (box.width === 0 || box.height === 0) wrong.push(`${name}: not shown`);
        if (element.scrollWidth > element.clientWidth + 1) wrong.push(`${name}: wider than its node`);
        if (Math.abs(box.height / scale - (node.type === "OneDiffCompile" ? 48 : 36)) > 1)
            wrong.push(`${name}: ${box.height / scale} high`);
        if (box.width > (node.size[0] + 1) * scale) wrong.push(`${name}: leaves its node`);
        if (!shown.length) wrong.push(`${name}: no words`);
        for (const part of shown) {
            const { right, left } = part.getBoundingClientRect();
            if (right > words.right + 1 || left < words.left - 1) wrong.push(`${name}: “${part.textContent}” is cut`);
            if (part.scrollWidth > part.clientWidth + 1 && !part.classList.contains("onediff-status-elastic"))
                wrong.push(`${name}: “${part.textContent}” does not fit`);
        }
        if (node.size[0] !== width || node.size[1] !== height) wrong.push(`${name}: changed its node's size`);
    }
    return { wrong, texts };
}"""


@pytest.fixture(scope="module")
def page(browser: Any, server: Any) -> Iterator[Any]:
    page = open_editor(browser.new_page(viewport={"width": 1900, "height": 1300}), server.url)
    set_setting(page, "Comfy.Minimap.Visible", False)
    set_setting(page, "Comfy.RightSidePanel.IsOpen", False)
    yield page
    set_setting(page, "Comfy.Minimap.Visible", True)
    use_language(page, "en")
    for setting, value in (("Comfy.ColorPalette", "dark"), ("Comfy.VueNodes.Enabled", False)):
        set_setting(page, setting, value)
    page.close()


@pytest.mark.parametrize("renderer, palette, language", COMBINATIONS)
def test_every_state_fits_and_says_what_it_should(page: Any, renderer: str, palette: str, language: str) -> None:
    use_renderer(page, renderer)
    set_setting(page, "Comfy.ColorPalette", palette)
    use_language(page, language)
    size = page.evaluate(BUILD, [states(page), NODES, PLACED, COLUMNS, GAP])
    page.wait_for_timeout(1200)
    page.evaluate(TELL)
    page.wait_for_timeout(900)
    page.evaluate("app.extensionManager.toast.removeAll()")
    problems = []
    for zoom in ZOOMS:
        margin = {"x": 90, "y": 150}
        page.set_viewport_size(
            {"width": int(size["width"] * zoom) + margin["x"] + 40, "height": int(size["height"] * zoom) + margin["y"]}
        )
        page.evaluate(LOOK, [zoom, margin["x"], margin["y"]])
        page.wait_for_timeout(900)
        keep_picture(page, f"states-{renderer}-{palette}-{language}-{round(zoom * 100)}")
        read = page.evaluate(READ)
        problems += [f"at {zoom}: {problem}" for problem in read["wrong"]]
        # Elapsed time goes on while the pictures are taken.
        said = {name: re.sub(r" · \d+ [s秒](?= · |$)", "", text) for name, text in read["texts"].items()}
        assert said == TEXTS[language]
    assert problems == []
