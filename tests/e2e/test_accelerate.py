"""Putting the nodes into a workflow and taking them out, in the real editor and both renderers, and what finds them."""

from __future__ import annotations

from typing import Any

import pytest
from editor import CHECK, COMPILE, FAULTS, PATCH, example_workflow, keep_picture, load, mostly, use_renderer

# The nodes that a model passes, from the loader to the sampler.
WAY = """() => {
    const way = [];
    for (let node = app.canvas.graph.nodes.find(node => node.type === "KSampler"); node;) {
        way.unshift(node.type);
        const link = app.canvas.graph.getLink(node.inputs.find(input => input.type === "MODEL")?.link);
        node = link && app.canvas.graph.getNodeById(link.origin_id);
    }
    return way;
}"""

STATE = """() => JSON.stringify(app.rootGraph.serialize().nodes
    .map(node => [node.id, node.type, node.pos.map(Math.round), node.inputs?.map(input => input.link != null)])
    .sort((a, b) => a[0] - b[0]))"""
PLACE = "type => app.graph.nodes.find(node => node.type === type).pos.map(Math.round)"
RUN = "id => app.extensionManager.command.execute(id)"
TRACKER = "app.extensionManager.workflow.activeWorkflow.changeTracker"
PLAIN = ["CheckpointLoaderSimple", "KSampler"]
PAIR = ["CheckpointLoaderSimple", PATCH, COMPILE, "KSampler"]


@pytest.fixture(params=mostly("nodes2"))
def page(request: pytest.FixtureRequest, opened: Any) -> Any:
    """The example workflow, with OneDiff taken out of it."""
    use_renderer(opened, request.param)
    load(opened, example_workflow(opened))
    assert opened.evaluate(WAY) == ["CheckpointLoaderSimple", PATCH, CHECK, COMPILE, "KSampler"]
    run(opened, "OneDiff.Remove")
    opened.evaluate("app.extensionManager.toast.removeAll()")
    assert opened.evaluate(WAY) == PLAIN
    assert not opened.evaluate("app.graph.nodes.some(node => node.type.startsWith('OneDiff'))")
    return opened


def run(page: Any, command: str) -> None:
    page.evaluate(RUN, command)
    page.wait_for_timeout(1200)


def fit(page: Any, name: str) -> None:
    page.evaluate("app.canvas.deselectAll()")
    page.evaluate(RUN, "Comfy.Canvas.FitView")
    page.wait_for_timeout(1500)
    keep_picture(page, name)


def renderer(page: Any) -> str:
    return "nodes2" if page.evaluate("LiteGraph.vueNodesMode === true") else "classic"


def test_one_command_puts_the_pair_in_and_one_undo_takes_it_out(page: Any) -> None:
    before = page.evaluate(STATE)
    run(page, "OneDiff.Accelerate")
    assert page.evaluate(WAY) == PAIR
    chosen = "Object.values(app.canvas.selected_nodes).map(node => node.type).sort()"
    assert page.evaluate(chosen) == [COMPILE, PATCH], "what is new is selected"
    said = page.locator(".p-toast-message").all_inner_texts()
    assert any("2 nodes added" in text and "Queue the workflow" in text for text in said), said
    fit(page, f"accelerated-{renderer(page)}")
    assert page.evaluate(FAULTS, True) == []
    page.evaluate(f"{TRACKER}.undo()")
    page.wait_for_timeout(1500)
    assert page.evaluate(STATE) == before
    page.evaluate(f"{TRACKER}.redo()")
    page.wait_for_timeout(1500)
    assert page.evaluate(WAY) == PAIR


def test_what_gave_way_goes_back_unless_it_was_moved(page: Any) -> None:
    page.evaluate("app.loadGraphData()")  # ComfyUI's own, in which there is no room
    page.wait_for_timeout(1500)
    before, stood = page.evaluate(STATE), page.evaluate(PLACE, "KSampler")
    run(page, "OneDiff.Accelerate")
    assert page.evaluate(PLACE, "KSampler")[0] > stood[0] + 100
    page.evaluate("() => app.loadGraphData(app.graph.serialize(), true, true, 'canvas test')")  # as a file keeps it
    page.wait_for_timeout(1500)
    fit(page, f"room-made-{renderer(page)}")
    undone = page.evaluate(f"{TRACKER}.undoQueue.length")
    run(page, "OneDiff.Remove")
    fit(page, f"room-given-back-{renderer(page)}")
    assert page.evaluate(STATE) == before
    assert page.evaluate(f"{TRACKER}.undoQueue.length") == undone + 1
    page.evaluate(f"{TRACKER}.undo()")
    page.wait_for_timeout(1500)
    assert page.evaluate(WAY)[-3:] == PAIR[1:]
    page.evaluate(
        "() => { const n = app.graph.nodes.find(n => n.type === 'SaveImage'); n.pos = [n.pos[0], n.pos[1] + 90]; }"
    )
    moved = page.evaluate(PLACE, "SaveImage")
    run(page, "OneDiff.Remove")
    assert page.evaluate(PLACE, "SaveImage") == moved
    assert page.evaluate(PLACE, "KSampler") == stood


def test_twice_adds_nothing_and_a_bypassed_node_is_switched_on(page: Any) -> None:
    run(page, "OneDiff.Accelerate")
    page.evaluate("type => void (app.graph.nodes.find(node => node.type === type).mode = 4)", COMPILE)
    run(page, "OneDiff.Accelerate")
    assert page.evaluate("app.graph.nodes.filter(node => node.type.startsWith('OneDiff')).map(n => n.mode)") == [0, 0]
    page.evaluate("app.extensionManager.toast.removeAll()")
    run(page, "OneDiff.Accelerate")
    assert page.evaluate(WAY) == PAIR
    assert "already goes through OneDiff" in " ".join(page.locator(".p-toast-message").all_inner_texts())
    run(page, "OneDiff.Remove")
    assert page.evaluate(WAY) == PLAIN


def test_the_default_workflow_is_laid_out_without_faults(page: Any) -> None:
    """ComfyUI's own: the text encoders stand between the loader and the sampler."""
    page.evaluate("app.loadGraphData()")
    page.wait_for_timeout(1500)
    run(page, "OneDiff.Accelerate")
    fit(page, f"accelerated-default-{renderer(page)}")
    assert page.evaluate(WAY)[-3:] == PAIR[1:]
    assert page.evaluate(FAULTS, True) == []


def test_a_sampler_in_a_subgraph_gets_it_there_and_gives_it_back(page: Any) -> None:
    page.evaluate(
        """() => {
        const sampler = app.graph.nodes.find(node => node.type === "KSampler");
        const { node } = app.graph.convertToSubgraph(new Set([sampler]));
        node.title = node.subgraph.name = "Sampling";
    }"""
    )
    page.wait_for_timeout(1000)
    run(page, "OneDiff.Accelerate")
    said = " ".join(page.locator(".p-toast-message").all_inner_texts())
    assert "in the subgraph “Sampling”" in said
    inside = "app.graph.nodes.find(node => node.subgraph).subgraph"
    page.evaluate(f"app.canvas.setGraph({inside})")
    page.wait_for_timeout(1500)
    fit(page, f"accelerated-subgraph-{renderer(page)}")
    assert page.evaluate(WAY) == PAIR[1:]
    assert page.evaluate(FAULTS, True) == []
    page.evaluate("app.canvas.setGraph(app.rootGraph)")
    way = "app.graphToPrompt().then(({ output }) => Object.values(output).map(node => node.class_type))"
    assert {PATCH, COMPILE} <= set(page.evaluate(way))
    run(page, "OneDiff.Remove")
    assert not {PATCH, COMPILE} & set(page.evaluate(way))
    model = f"{inside}.nodes.find(node => node.type === 'KSampler').inputs.find(i => i.type === 'MODEL').link != null"
    assert page.evaluate(model), "the sampler gets its model from the subgraph's input again"
    page.evaluate("app.extensionManager.toast.removeAll()")


def test_what_a_subgraph_hands_on_has_it_already(page: Any) -> None:
    run(page, "OneDiff.Accelerate")
    page.evaluate(
        """types => {
        const nodes = app.graph.nodes.filter(node => types.includes(node.type));
        app.graph.convertToSubgraph(new Set(nodes));
    }""",
        ["CheckpointLoaderSimple", PATCH, COMPILE],
    )
    page.wait_for_timeout(1000)
    page.evaluate("app.extensionManager.toast.removeAll()")
    run(page, "OneDiff.Accelerate")
    assert "already goes through OneDiff" in " ".join(page.locator(".p-toast-message").all_inner_texts())
    assert not page.evaluate("app.graph.nodes.some(node => node.type.startsWith('OneDiff'))")
    page.evaluate("app.extensionManager.toast.removeAll()")


def test_the_menus_of_canvas_and_nodes_and_the_sidebar_offer_it(page: Any) -> None:
    entries = "items => items.map(item => item?.content).filter(Boolean)"
    canvas = page.evaluate(f"({entries})(app.canvas.getCanvasMenuOptions())")
    assert {"Accelerate with OneDiff", "Remove all OneDiff nodes"} <= set(canvas)
    of = "type => app.canvas.getNodeMenuOptions(app.graph.nodes.find(node => node.type === type))"
    loader = page.evaluate(f"type => ({entries})(({of})(type))", "CheckpointLoaderSimple")
    assert "Accelerate with OneDiff" in loader
    assert "Accelerate with OneDiff" not in page.evaluate(f"type => ({entries})(({of})(type))", "KSampler")
    page.evaluate(f"(({of})('CheckpointLoaderSimple')).find(i => i?.content === 'Accelerate with OneDiff').callback()")
    page.wait_for_timeout(1000)
    assert page.evaluate(WAY) == PAIR
    ours = page.evaluate(f"type => ({entries})(({of})(type))", COMPILE)
    assert {"Show OneDiff report", "Clear OneDiff measurements", "Remove all OneDiff nodes"} <= set(ours)
    page.locator(".onediff-tab-button").click()
    page.wait_for_timeout(700)
    page.locator(".onediff-sidebar button", has_text="Remove all OneDiff nodes").click()
    page.wait_for_timeout(700)
    assert page.evaluate(WAY) == PLAIN
    page.locator(".onediff-sidebar button", has_text="Accelerate with OneDiff").click()
    page.wait_for_timeout(700)
    assert page.evaluate(WAY) == PAIR
    page.locator(".onediff-tab-button").click()


def test_a_right_click_on_the_loader_shows_the_entry(page: Any) -> None:
    at = page.evaluate(
        """() => {
        const node = app.graph.nodes.find(node => node.type === "CheckpointLoaderSimple");
        app.canvas.ds.scale = 1;
        app.canvas.ds.offset = [300 - node.pos[0], 300 - node.pos[1]];
        app.canvas.setDirty(true, true);
        const { left, top } = app.canvas.canvas.getBoundingClientRect();
        return [left + 380, top + 290];
    }"""
    )
    page.wait_for_timeout(800)
    page.mouse.click(*at, button="right")
    page.wait_for_timeout(800)
    keep_picture(page, f"menu-loader-{renderer(page)}")
    extensions = page.get_by_text("Extensions", exact=True).last
    if page.get_by_text("Accelerate with OneDiff").count() == 0:
        extensions.hover()
        page.wait_for_timeout(500)
    page.get_by_text("Accelerate with OneDiff").last.click()
    page.wait_for_timeout(1000)
    assert page.evaluate(WAY) == PAIR


@pytest.mark.parametrize("words", ["faster", "accelerate", "sage attention", "nexfort"])
def test_the_search_finds_the_nodes(opened: Any, words: str) -> None:
    opened.keyboard.press("Escape")
    opened.evaluate(RUN, "Workspace.SearchBox.Toggle")
    opened.wait_for_timeout(1000)
    opened.keyboard.type(words)
    opened.wait_for_timeout(1200)
    keep_picture(opened, f"search-{words.replace(' ', '-')}")
    wanted = "Patch Attention Processors" if words == "sage attention" else "OneDiff Compile"
    found = opened.get_by_text(wanted, exact=True).count()
    opened.keyboard.press("Escape")
    opened.wait_for_timeout(300)
    assert found
