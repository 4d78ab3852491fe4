"""How the example workflows look when they are opened on a small screen, in both renderers."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from editor import FAULTS, MINUTES, RENDERERS, ROOT, keep_picture, load, mostly, open_editor, set_setting, use_renderer
from examples import EXAMPLES, OURS, bypass, example, example_file, run

# Links that lead back, and nodes that are not wholly on the screen, or higher or lower than what they hold.
LOOK = """() => {
    const wrong = [];
    const { scale, offset } = app.canvas.ds;
    const { width, height } = app.canvas.canvas.getBoundingClientRect();
    for (const node of app.graph.nodes) {
        const [x, y] = [(node.pos[0] + offset[0]) * scale, (node.pos[1] - 30 + offset[1]) * scale];
        if (x < 60 || y < 60 || x + node.size[0] * scale > width || y + (node.size[1] + 30) * scale > height)
            wrong.push(`${node.type} is not on the screen`);
        const name = LiteGraph.vueNodesMode ? 40 : 2; // Nodes 2.0 writes the pack's name below
        if (node.type.startsWith("OneDiff") && Math.abs(node.size[1] - node.computeSize()[1]) > name)
            wrong.push(`${node.type} is ${node.size[1]} high and holds ${node.computeSize()[1]}`);
        for (const { link } of node.inputs ?? []) {
            const from = link == null ? null : app.graph.getNodeById(app.graph.getLink(link).origin_id);
            if (from && from.pos[0] + from.size[0] > node.pos[0]) wrong.push(`${from.type} → ${node.type} leads back`);
        }
    }
    return wrong;
}"""


# What OneDiff's nodes say.
LINES = """() => app.graph.nodes
    .filter(({ type }) => type.startsWith("OneDiff"))
    .map(node => node.widgets.at(-1).element.title.split("\\n")[0])"""

#: Takes the pictures of the templates anew.
PICTURES = os.environ.get("ONEDIFF_EXAMPLE_PICTURES")

# Without the editor's own parts, and without the red of a checkpoint that is not on this machine.
GRAPH_ALONE = """() => {
    const style = document.createElement("style");
    style.id = "graph-alone";
    const shown = "#graph-canvas, .dom-widget, .dom-widget *";
    style.textContent = `body * { visibility: hidden } ${shown} { visibility: visible }`;
    document.head.append(style);
    for (const node of app.graph.nodes) {
        node.has_errors = false;
        node.strokeStyles = {};
    }
    app.graph.setDirtyCanvas(true, true);
}"""

# What the nodes and groups cover on the page, with a margin.
EXTENT = """() => {
    const { scale, offset } = app.canvas.ds;
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const boxes = app.graph.nodes.map(({ pos, size }) => [pos[0], pos[1] - 30, pos[0] + size[0], pos[1] + size[1]]);
    for (const { pos, size } of app.graph.groups) boxes.push([pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]]);
    const [x0, y0] = [0, 1].map(i => (Math.min(...boxes.map(box => box[i])) - 20 + offset[i]) * scale);
    const [x1, y1] = [2, 3].map(i => (Math.max(...boxes.map(box => box[i])) + 20 + offset[i - 2]) * scale);
    return [canvas.left + Math.max(x0, 0), canvas.top + Math.max(y0, 0), x1 - Math.max(x0, 0), y1 - Math.max(y0, 0)];
}"""


# Whether the node that saves the picture shows it: on the canvas in classic nodes, as an element in Nodes 2.0.
SHOWS = """file => {
    const images = LiteGraph.vueNodesMode
        ? [...document.querySelectorAll("[data-node-id] img")]
        : (app.graph.nodes.find(({ type }) => type === "SaveImage").imgs ?? []);
    return images.some(({ src, complete, naturalWidth }) => src.includes(file) && complete && naturalWidth > 0);
}"""


@pytest.fixture(scope="module")
def page(browser: Any, server: Any) -> Iterator[Any]:
    page = open_editor(browser.new_page(viewport={"width": 1280, "height": 720}), server.url)
    set_setting(page, "Comfy.RightSidePanel.IsOpen", False)
    set_setting(page, "Comfy.Minimap.Visible", False)
    yield page
    set_setting(page, "Comfy.Minimap.Visible", True)
    use_renderer(page, "classic")
    page.close()


@pytest.mark.parametrize("renderer", mostly("classic"))
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_reads_from_left_to_right_on_a_small_screen(page: Any, name: str, renderer: str) -> None:
    use_renderer(page, renderer)
    workflow = json.loads(example_file(name).read_text(encoding="utf-8"))
    load(page, {**workflow, "id": str(uuid.uuid4())})  # never run: other tests run the example on this server
    page.wait_for_timeout(500)
    keep_picture(page, f"example-{name}-{renderer}")
    if PICTURES and renderer == "classic":
        take_picture(page, example_file(name).with_suffix(".jpg"))
    assert page.evaluate(LOOK) == []
    assert page.evaluate(FAULTS, False) == []
    lines = page.evaluate(LINES)
    assert lines and all(line.startswith("✎ author") for line in lines), "what its author's run gained"


def take_picture(page: Any, file: Path) -> None:
    """What the editor shows of the workflow among its templates: the graph as it opens."""
    set_setting(page, "Comfy.Graph.CanvasInfo", False)
    page.evaluate(GRAPH_ALONE)
    page.wait_for_timeout(1000)
    x, y, width, height = page.evaluate(EXTENT)
    page.screenshot(path=file, type="jpeg", quality=70, clip={"x": x, "y": y, "width": width, "height": height})
    page.evaluate("document.getElementById('graph-alone').remove()")
    set_setting(page, "Comfy.Graph.CanvasInfo", True)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_editor_is_given_a_small_picture_of_each(name: str, server: Any) -> None:
    file = example_file(name).with_suffix(".jpg")
    assert 4_000 < file.stat().st_size < 100_000
    templates = server.get_json("/workflow_templates")
    (ours,) = (names for pack, names in templates.items() if EXAMPLES[name] in names)
    assert set(ours) == set(EXAMPLES.values())
    (pack,) = (pack for pack, names in templates.items() if names == ours)
    for suffix in (".json", ".jpg"):
        path = f"/api/workflow_templates/{quote(pack)}/{quote(EXAMPLES[name])}{suffix}"
        with urlopen(server.url + path, timeout=30) as answer:
            assert answer.read() == file.with_suffix(suffix).read_bytes()


def test_the_demos_editor_shows_the_picture_that_it_made(page: Any, server: Any) -> None:
    workflow = bypass(example("sd15", server, steps=1), *OURS)
    entry = run(server, workflow).entry
    ran = {"workflow": workflow["id"], "prompt": entry["prompt"][1], "outputs": entry["outputs"]}
    script = (ROOT / "scripts" / "demo_picture.js").read_text(encoding="utf-8")
    page.route("**/extensions/onediff-demo/demo_picture.js", answered(script, "text/javascript"))
    page.route("**/extensions/onediff-demo/ran.json", answered(json.dumps(ran), "application/json"))
    page.evaluate("() => import('/extensions/onediff-demo/demo_picture.js')")
    load(page, workflow)
    (saved,) = entry["outputs"].values()
    for renderer in RENDERERS:
        use_renderer(page, renderer)
        page.wait_for_function(SHOWS, arg=saved["images"][0]["filename"], timeout=MINUTES)
        page.wait_for_timeout(300)
        keep_picture(page, f"demo-picture-{renderer}")


def answered(text: str, kind: str) -> Any:
    return lambda route: route.fulfill(body=text, content_type=kind)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "report"])
def test_another_picture_comes_with_each_run(name: str) -> None:
    workflow = json.loads(example_file(name).read_text(encoding="utf-8"))
    (sampler,) = (node for node in workflow["nodes"] if node["type"] == "KSampler")
    assert sampler["widgets_values"][1] == "randomize"
