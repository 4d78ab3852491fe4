"""What is seen of the nodes from far away, of those inside a subgraph, and the inputs' names, in the real editor."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from editor import (
    CHECK,
    COMPILE,
    PATCH,
    RENDERERS,
    example_workflow,
    keep_picture,
    load,
    show,
    states,
    tell,
    use_renderer,
)

# What stands above a node, and in which colour; empty when there is nothing.
FACE = """() => {
    const node = app.rootGraph.nodes.find(node => node.subgraph);
    const element = document.querySelector(`.lg-node[data-node-id="${node.id}"]`);
    if (element) {
        const { content, backgroundColor } = getComputedStyle(element, "::before");
        return content === "none" ? ["", ""] : [content.replace(/^"|"$/g, ""), backgroundColor];
    }
    const badges = (node.badges ?? []).map(badge => (typeof badge === "function" ? badge() : badge));
    const ours = badges.find(badge => badge.text.startsWith("OneDiff "));
    return ours ? [ours.text, ours.bgColor] : ["", ""];
}"""

# A point of it, on the page.
AT = """() => {
    const node = app.rootGraph.nodes.find(node => node.subgraph);
    const box = document.querySelector(`.lg-node[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    if (box) return [box.right - 20, box.top - 8];
    const { scale, offset } = app.canvas.ds;
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const [x, y] = [node.pos[0] + 20, node.pos[1] - LiteGraph.NODE_TITLE_HEIGHT - 10];
    return [canvas.left + (x + offset[0]) * scale, canvas.top + (y + offset[1]) * scale];
}"""

REPORT = "dialog.onediff-panel[open]"

CONVERT = """types => {
    const nodes = app.graph.nodes.filter(node => types.includes(node.type));
    const { node } = app.graph.convertToSubgraph(new Set(nodes));
    node.title = node.subgraph.name = "Fast model";
    window.inside = node.subgraph;
    return String(node.id);
}"""

SYMBOL = """type => {
    const element = app.graph.nodes.find(node => node.type === type).widgets.at(-1).element;
    const box = selector => element.querySelector(selector).getBoundingClientRect();
    const symbol = box(".onediff-status-symbol");
    const shown = document.elementFromPoint(symbol.left + symbol.width / 2, symbol.top + symbol.height / 2);
    return {
        height: parseFloat(getComputedStyle(element.querySelector(".onediff-status-symbol")).fontSize)
            * app.canvas.ds.scale,
        color: getComputedStyle(element.querySelector(".onediff-status-symbol")).color,
        visible: symbol.width > 0 && element.contains(shown),
        words: box(".onediff-status-words").width > 0,
    };
}"""


@pytest.fixture(params=RENDERERS)
def page(request: pytest.FixtureRequest, opened: Any) -> Any:
    """The example workflow, each time as one of its own, so that no test sees what another one told."""
    use_renderer(opened, request.param)
    load(opened, {**example_workflow(opened), "id": str(uuid.uuid4())})
    show(opened)
    return opened


def say(page: Any, record: dict[str, Any], node: str) -> None:
    """A record for a node by its execution id."""
    page.evaluate(
        """([record, node]) => {
        const detail = { ...record, workflow: String(app.rootGraph.id), node };
        window.comfyAPI.api.api.dispatchEvent(new CustomEvent("onediff.status", { detail }));
    }""",
        [record, node],
    )
    page.wait_for_timeout(900)


def zoom(page: Any, scale: float) -> None:
    page.evaluate(
        "scale => { app.canvas.ds.scale = scale; app.canvas.ds.offset = [300, 300]; app.canvas.setDirty(true, true); }",
        scale,
    )
    page.wait_for_timeout(900)


def name(page: Any) -> str:
    return "nodes2" if page.evaluate("LiteGraph.vueNodesMode === true") else "classic"


def test_the_mark_is_still_seen_from_far_away(page: Any) -> None:
    tell(page, states(page)["compiled"])
    assert page.evaluate(SYMBOL, COMPILE)["words"]
    zoom(page, 0.3)
    keep_picture(page, f"far-{name(page)}")
    far = page.evaluate(SYMBOL, COMPILE)
    assert far["visible"]
    if name(page) == "classic":  # Nodes 2.0 draws all text at any zoom
        assert far["height"] >= 9, "large enough to be told from the others"
        assert not far["words"]
    near = far["color"]
    tell(page, states(page)["failed"])
    assert page.evaluate(SYMBOL, COMPILE)["color"] != near
    zoom(page, 1)
    assert page.evaluate(SYMBOL, COMPILE)["words"]


def test_a_subgraph_shows_the_worst_of_what_is_inside(page: Any) -> None:
    known = states(page)
    use = page.evaluate(CONVERT, [PATCH, CHECK, COMPILE])
    page.wait_for_timeout(1500)
    assert page.evaluate(FACE) == ["", ""], "nothing is known yet"
    compiled, patch = page.evaluate(
        "types => types.map(type => String(window.inside.nodes.find(node => node.type === type).id))", [COMPILE, PATCH]
    )
    say(page, known["compiled"], f"{use}:{compiled}")
    say(page, known["patched"], f"{use}:{patch}")
    good = page.evaluate(FACE)
    assert good[0] == "OneDiff ▲ compiled · 1.62×"
    page.evaluate("app.canvas.deselectAll()")
    page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1200)
    keep_picture(page, f"face-{name(page)}")
    say(page, known["failed"], f"{use}:{compiled}")
    bad = page.evaluate(FACE)
    assert bad[0] == "OneDiff ✗ failed" and bad[1] != good[1]
    assert "OneDiff ✗" not in page.evaluate("JSON.stringify(app.rootGraph.serialize())")
    x, y = page.evaluate(AT)
    page.mouse.click(x, y - 60)
    page.wait_for_timeout(300)
    assert page.locator(REPORT).count() == 0, "above it"
    page.mouse.click(*page.evaluate(AT))
    page.wait_for_selector(REPORT)
    keep_picture(page, f"face-report-{name(page)}")
    assert "OneDiff Compile" in page.locator(REPORT).inner_text()
    page.keyboard.press("Escape")


def test_converting_into_a_subgraph_loses_nothing(page: Any) -> None:
    tell(page, states(page)["compiled"])
    tell(page, states(page)["patched"], PATCH)
    values = "type => graph => graph.nodes.find(node => node.type === type).serialize().widgets_values"
    before = page.evaluate(f"type => ({values})(type)(app.graph)", COMPILE)
    page.evaluate(CONVERT, [PATCH, COMPILE])
    page.wait_for_timeout(1500)
    assert page.evaluate(FACE)[0] == "OneDiff ▲ compiled · 1.62×"
    page.evaluate("app.canvas.setGraph(window.inside)")
    page.wait_for_timeout(1500)
    line = "type => app.canvas.graph.nodes.find(n => n.type === type).widgets.at(-1).element.title.split('\\n')[0]"
    assert page.evaluate(line, COMPILE).startswith("▲ compiled · 1.62×")
    assert page.evaluate(line, PATCH) == "✓ 10 sites patched · sdpa"
    assert page.evaluate(f"type => ({values})(type)(app.canvas.graph)", COMPILE) == before
    page.evaluate("app.canvas.setGraph(app.rootGraph)")
    page.wait_for_timeout(500)


def test_a_change_of_a_setting_marks_the_line_until_it_is_taken_back(page: Any) -> None:
    tell(page, {**states(page)["compiled"], "settings": {"keep_faster": True, "effort": "fast start"}})
    title = "type => app.graph.nodes.find(n => n.type === type).widgets.at(-1).element.title.split('\\n')[0]"
    change = """([type, value]) => {
        app.graph.nodes.find(n => n.type === type).widgets.find(w => w.name === "keep_faster").value = value;
    }"""
    assert page.evaluate(title, COMPILE).startswith("▲ compiled · 1.62×")
    page.evaluate(change, [COMPILE, False])
    page.wait_for_timeout(1500)
    assert page.evaluate(title, COMPILE).startswith("◷ before your change · compiled · 1.62×")
    keep_picture(page, f"changed-{name(page)}")
    page.evaluate(change, [COMPILE, True])
    page.wait_for_timeout(1500)
    assert page.evaluate(title, COMPILE).startswith("▲ compiled · 1.62×")


def test_a_change_behind_a_link_marks_the_line_too(page: Any) -> None:
    """A number that ComfyUI's own Int node gives, directly and into a subgraph by its widget; and a moved link."""
    made = page.evaluate(
        """() => {
        const report = LiteGraph.createNode("OneDiffSpeedReport");
        const [holds, other] = ["Steps", "Other"].map((title, index) => {
            const node = LiteGraph.createNode("PrimitiveInt");
            node.pos = [0, 900 + 200 * index];
            node.title = title;
            node.widgets[0].value = 8;
            return app.graph.add(node);
        });
        report.pos = [400, 900];
        app.graph.add(report);
        holds.connect(0, report, report.inputs.findIndex(({ name }) => name === "steps"));
        return [report, holds, other].map(({ id }) => String(id));
    }"""
    )
    number, holds, other = made
    tell(page, {**states(page)["compiled"], "settings": {"steps": 8}, "sources": {"steps": [holds, 0]}}, number)
    text = "id => app.graph.getNodeById(Number(id)).widgets.at(-1).element.title"
    assert page.evaluate(text, number).startswith("▲ compiled · 1.62×")
    page.evaluate("id => { app.graph.getNodeById(Number(id)).widgets[0].value = 20; }", holds)
    page.wait_for_timeout(1500)
    said = page.evaluate(text, number)
    assert said.startswith("◷ before your change · compiled · 1.62×") and "“Steps” has other settings" in said
    page.evaluate(
        "id => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [100, -750]; app.canvas.setDirty(true, true); }",
        number,
    )
    page.wait_for_timeout(800)
    keep_picture(page, f"changed-behind-a-link-{name(page)}")
    page.evaluate(
        """([to, from]) => {
        const report = app.graph.getNodeById(Number(to));
        const slot = report.inputs.findIndex(({ name }) => name === "steps");
        app.graph.getNodeById(Number(from)).connect(0, report, slot);
    }""",
        [number, other],
    )
    page.wait_for_timeout(1500)
    assert page.evaluate(text, number).startswith("▲ compiled"), "the other one gives what was given"
    page.evaluate(CONVERT, ["OneDiffSpeedReport"])
    page.wait_for_timeout(1500)
    inside = "id => window.inside.getNodeById(Number(id)).widgets.at(-1).element.title"
    page.evaluate("app.canvas.setGraph(window.inside)")
    page.wait_for_timeout(1500)
    assert page.evaluate(inside, number).startswith("▲ compiled")
    page.evaluate("id => { app.rootGraph.getNodeById(Number(id)).widgets[0].value = 9; }", other)
    page.wait_for_timeout(1500)
    assert page.evaluate(inside, number).startswith("◷ before your change")
    page.evaluate("app.canvas.setGraph(app.rootGraph)")
    page.wait_for_timeout(500)


def test_bars_go_when_the_node_is_switched_off(page: Any) -> None:
    tell(page, states(page)["compiled"])
    bars = "type => app.graph.nodes.find(n => n.type === type).widgets.at(-1).element.querySelectorAll('rect').length"
    assert page.evaluate(bars, COMPILE) > 0
    page.evaluate("type => { app.graph.nodes.find(n => n.type === type).mode = 4; }", COMPILE)
    page.wait_for_timeout(1200)
    assert page.evaluate(bars, COMPILE) == 0


def test_the_inputs_say_what_they_decide(page: Any) -> None:
    labels = "type => app.graph.nodes.find(n => n.type === type).widgets.map(w => w.label ?? w.name)"
    assert {"if it cannot compile", "only if faster"} <= set(page.evaluate(labels, COMPILE))
    names = page.evaluate("type => app.graph.nodes.find(n => n.type === type).widgets.map(w => w.name)", COMPILE)
    assert {"if_unfit", "keep_faster"} <= set(names)
