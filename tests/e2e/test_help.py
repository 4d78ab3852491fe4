"""ComfyUI's help panel shows each node's page with its picture.

With ``ONEDIFF_HELP_PICTURES=1`` the pictures in web/docs, and the README's, are taken anew first, from a real run of
the example at its own size in the real editor; with ``loaded`` those of the nodes that load a processor alone, with
``parts`` those for a VAE and a ControlNet.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from editor import MINUTES, QUEUE, ROOT, example_workflow, keep_picture, load, open_editor, use_renderer
from onediff_pack.node_ids import (
    COMPILE,
    COMPILE_CONTROL_NET,
    COMPILE_VAE,
    FORWARD_CHECK,
    IP_ADAPTER,
    LOAD_PROCESSOR,
    PATCH_ATTENTION,
    SPEED_REPORT,
)
from PIL import Image

from scripts.prompt import MUTED

DOCS = ROOT / "web" / "docs"
NODES = (
    PATCH_ATTENTION,
    FORWARD_CHECK,
    COMPILE,
    SPEED_REPORT,
    LOAD_PROCESSOR,
    IP_ADAPTER,
    COMPILE_VAE,
    COMPILE_CONTROL_NET,
)
TITLES = {
    "en": (
        *("Patch Attention Processors", "Forward Check", "OneDiff Compile", "Speed Report"),
        *("Load Attention Processor", "IP-Adapter Processor"),
        *("OneDiff Compile VAE", "OneDiff Compile ControlNet"),
    ),
    "zh": (
        *("替换注意力处理器", "前向检查", "OneDiff 编译", "速度报告", "加载注意力处理器", "IP-Adapter 处理器"),
        *("OneDiff 编译 VAE", "OneDiff 编译 ControlNet"),
    ),
}
MOST_BYTES = 60_000

#: A file that the node lists; it is not opened here.
FILE = "ipadapter/ip-adapter_sd15.safetensors"

# Puts a Speed Report beside the sampler, with the sampler's own inputs.
ADD_REPORT = """() => {
    const sampler = app.graph.nodes.find(node => node.type === "KSampler");
    const report = window.LiteGraph.createNode("OneDiffSpeedReport");
    app.graph.add(report);
    report.pos = [sampler.pos[0], sampler.pos[1] + 1200];
    report.setSize([420, 460]); // room for the plot
    report.widgets.find(widget => widget.name === "steps").value = 4;
    ["model", "positive", "negative", "latent"].forEach((name, slot) => {
        const from = sampler.inputs.find(input => input.name.startsWith(name));
        const link = app.graph.getLink(from.link);
        app.graph.getNodeById(link.origin_id).connect(link.origin_slot, report, slot);
    });
}"""

# Puts the nodes that load a processor above the others, with a file that is listed, connected to nothing that runs.
ADD_LOADED = """file => {
    const patch = app.graph.nodes.find(node => node.type === "OneDiffPatchAttention");
    const [load, adapter] = ["OneDiffLoadProcessor", "OneDiffIPAdapter"].map((type, n) => {
        const node = window.LiteGraph.createNode(type);
        app.graph.add(node);
        node.pos = [patch.pos[0] + 340 * n, patch.pos[1] - 1200];
        node.setSize([290, node.size[1]]);
        return node;
    });
    load.widgets[0].value = file;
    load.connect(0, adapter, 0);
}"""

# Puts the nodes for a VAE and a ControlNet there too, the first between the checkpoint and what decodes.
ADD_PARTS = """() => {
    const find = type => app.graph.nodes.find(node => node.type === type);
    const decode = find("VAEDecode");
    const [vae, net] = ["OneDiffCompileVAE", "OneDiffCompileControlNet"].map((type, n) => {
        const node = window.LiteGraph.createNode(type);
        app.graph.add(node);
        node.pos = [decode.pos[0] + 340 * n, decode.pos[1] + 1200];
        node.setSize([300, node.size[1]]);
        return node;
    });
    find("CheckpointLoaderSimple").connect(2, vae, 0);
    vae.connect(0, decode, decode.inputs.findIndex(({ name }) => name === "vae"));
}"""

SET_MODE = "([type, mode]) => void (app.graph.nodes.find(node => node.type === type).mode = mode)"

# The size and the processor that the example comes with, and steps enough to compare both ways.
FULL_SIZE = """() => {
    const set = (type, names, values) => app.graph.nodes.find(node => node.type === type).widgets
        .forEach(widget => names.includes(widget.name) && (widget.value = values[names.indexOf(widget.name)]));
    set("EmptyLatentImage", ["width", "height"], [512, 512]);
    set("KSampler", ["steps"], [16]);
    set("OneDiffPatchAttention", ["processor"], ["auto"]);
}"""

# Brings nodes that stand in a row to a place where nothing lies over them, and says what they cover.
FRAME = """types => {
    const nodes = types.map(type => app.graph.nodes.find(node => node.type === type));
    const [first, last] = [nodes[0], nodes.at(-1)];
    app.canvas.deselectAll();
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [460 - first.pos[0], 180 - first.pos[1]];
    app.canvas.setDirty(true, true);
    const { left, top } = app.canvas.canvas.getBoundingClientRect();
    const width = last.pos[0] + last.size[0] - first.pos[0];
    const height = Math.max(...nodes.map(node => node.size[1]));
    return { x: left + 460 - 10, y: top + 180 - 58, width: width + 20, height: height + 68 };
}"""

SELECT = """type => {
    app.canvas.deselectAll();
    const node = app.graph.nodes.find(node => node.type === type);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [460 - node.pos[0], 260 - node.pos[1]];
    app.canvas.selectNode(node);
    app.canvas.setDirty(true, true);
}"""

READ_HELP = """() => {
    const page = document.querySelector(".node-help-content .markdown-content");
    const picture = page?.querySelector("img");
    return page && {
        title: page.querySelector("h1")?.textContent,
        tables: page.querySelectorAll("table").length,
        picture: picture?.naturalWidth ?? 0,
        alt: picture?.alt ?? "",
        shown: picture ? picture.getBoundingClientRect().width : 0,
    };
}"""


@pytest.fixture(scope="module")
def page(browser: Any, server: Any, environment: Any) -> Iterator[Any]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    folder, _, name = FILE.partition("/")
    listed = environment.cache / "e2e" / f"default{worker}" / "models" / folder / name
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.touch()
    page = open_editor(browser.new_page(viewport={"width": 1600, "height": 1150}), server.url)
    use_renderer(page, "classic")
    load(page, example_workflow(page))
    page.evaluate(ADD_REPORT)
    page.evaluate(ADD_LOADED, FILE)
    page.evaluate(ADD_PARTS)
    if os.environ.get("ONEDIFF_HELP_PICTURES"):
        take_pictures(page)
    yield page
    page.close()
    listed.unlink()


def take_pictures(page: Any) -> None:
    *three, report, load_processor, adapter, vae, control_net = NODES
    parts = {DOCS / f"{node}.png": [node] for node in (vae, control_net)}
    if os.environ["ONEDIFF_HELP_PICTURES"] == "parts":
        page.set_default_timeout(15 * MINUTES)
        page.evaluate(SET_MODE, [report, MUTED])
        page.evaluate(QUEUE)
        shoot(page, parts)
        return
    shoot(page, {DOCS / f"{load_processor}.png": [load_processor], DOCS / f"{adapter}.png": [load_processor, adapter]})
    if os.environ["ONEDIFF_HELP_PICTURES"] == "loaded":  # these need no run
        return
    page.set_default_timeout(15 * MINUTES)
    page.evaluate(FULL_SIZE)
    page.evaluate(SET_MODE, [report, MUTED])
    page.evaluate(QUEUE)
    shoot(page, {DOCS / f"{node}.png": [node] for node in three} | parts | {ROOT / "docs" / "nodes.png": three})
    page.evaluate(SET_MODE, [report, 0])
    page.evaluate(QUEUE)
    shoot(page, {DOCS / f"{report}.png": [report]})


def shoot(page: Any, files: dict[Path, list[str]]) -> None:
    page.wait_for_timeout(2000)
    for file, nodes in files.items():
        page.evaluate(FRAME, nodes)
        page.wait_for_timeout(1500)
        picture = Image.open(io.BytesIO(page.screenshot(clip=page.evaluate(FRAME, nodes))))
        # By coverage: the few pixels of a green mark keep their colour.
        small = picture.convert("RGB").quantize(192, Image.Quantize.MAXCOVERAGE)
        small.save(file, optimize=True)


@pytest.mark.parametrize("language", list(TITLES))
def test_the_help_panel_shows_page_and_picture(page: Any, language: str) -> None:
    page.evaluate("language => app.extensionManager.setting.set('Comfy.Locale', language)", language)
    page.wait_for_timeout(1500)
    for node, title in zip(NODES, TITLES[language], strict=True):
        page.evaluate(SELECT, node)
        page.get_by_test_id("info-button").click(timeout=15_000)
        page.wait_for_function(
            "title => document.querySelector('.node-help-content h1')?.textContent === title", arg=title, timeout=15_000
        )
        page.wait_for_function("document.querySelector('.node-help-content img')?.naturalWidth > 0", timeout=15_000)
        keep_picture(page, f"help-{node}-{language}")
        shown = page.evaluate(READ_HELP)
        assert shown["picture"] > 200
        assert shown["shown"] > 150
        assert shown["alt"]
        assert shown["tables"] >= 2


@pytest.mark.parametrize("node", NODES)
def test_a_picture_is_there_and_small(node: str) -> None:
    file = DOCS / f"{node}.png"
    assert file.stat().st_size < MOST_BYTES
    assert Image.open(file).width > 200
