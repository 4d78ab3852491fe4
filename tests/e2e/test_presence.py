"""The status is there whenever and wherever somebody looks: one test a case."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from editor import CHECK, MINUTES, PATCH, QUEUE, READ, RENDERERS, load, mostly, open_editor, ready, show, use_renderer
from examples import start
from quick import quick_workflow

from scripts.environment import Environment
from scripts.prompt import to_prompt

CHECKED = "✓ no problems · 348 modules"
PATCHED = "✓ 14 sites patched · sdpa"
NOT_RUN = "○ not run yet"
VIEW = {"width": 1400, "height": 600}


def read(page: Any, node: str = CHECK) -> dict[str, Any]:
    """A node's line in the graph that is open, which may be a subgraph."""
    return page.evaluate(READ.replace("app.graph", "app.canvas.graph"), node)


def text(page: Any, node: str = CHECK) -> str:
    return read(page, node)["text"]


def run(page: Any) -> None:
    page.evaluate(QUEUE)
    page.wait_for_timeout(1500)


def say(page: Any, workflow: str, node: str, state: str = "checked", modules: int = 1) -> None:
    """An event of the server about a node, as its websocket brings it."""
    check = {"modules": modules, "sites": 0, "errors": 0, "warnings": 0, "findings": []}
    record = {"workflow": workflow, "node": node, "state": state, "summary": f"checked {modules}", "check": check}
    page.evaluate("record => window.comfyAPI.api.api.dispatchCustomEvent('onediff.status', record)", record)
    page.wait_for_timeout(1200)


@pytest.fixture(scope="module")
def shared(browser: Any) -> Iterator[list[Any]]:
    """The editor that tests share which need no more than one."""
    pages: list[Any] = []
    yield pages
    for page in pages:
        page.close()


@pytest.fixture
def page(browser: Any, server: Any, shared: list[Any]) -> Any:
    if not shared:
        shared.append(opened_at(browser.new_page(viewport=VIEW), server.url))
    use_renderer(shared[0], "classic")
    return shared[0]


@pytest.fixture
def editors(browser: Any, server: Any, shared: list[Any]) -> Iterator[Any]:
    """Opens editors, each in a browser profile of its own, when the shared one is closed."""
    while shared:
        shared.pop().close()
    contexts = []

    def open_one(url: str = server.url) -> Any:
        contexts.append(browser.new_context(viewport=VIEW))
        page = opened_at(contexts[-1].new_page(), url)
        use_renderer(page, "classic")
        return page

    yield open_one
    for context in contexts:
        context.close()


def opened_at(page: Any, url: str) -> Any:
    open_editor(page, url).set_default_timeout(3 * MINUTES)
    return page


def test_after_switching_to_another_tab_and_back(page: Any) -> None:
    workflow = quick_workflow("tabs")
    load(page, workflow)
    say(page, workflow["id"], "12", modules=7)
    load(page, quick_workflow("tab2"))
    assert text(page) == NOT_RUN
    say(page, workflow["id"], "12", modules=8)  # it goes on in the background
    page.evaluate(
        """async () => {
        await app.extensionManager.command.execute("Workspace.PreviousOpenedWorkflow");
    }"""
    )
    page.wait_for_timeout(1500)
    assert page.evaluate("app.rootGraph.id") == workflow["id"]
    assert text(page).endswith("8 modules")
    assert page.evaluate("app.graph.nodes.find(node => node.id == 12).properties.onediff.summary") == "checked 8"


def test_after_undo_and_redo(page: Any) -> None:
    load(page, quick_workflow("undo"))
    run(page)
    page.evaluate("app.graph.remove(app.graph.nodes.find(node => node.id == 12))")
    tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
    page.evaluate(f"{tracker}.captureCanvasState()")
    for way in ("undo", "redo", "undo"):
        page.evaluate(f"{tracker}.{way}()")
        page.wait_for_timeout(1500)
    assert text(page) == CHECKED


def test_a_copied_node_starts_afresh_also_in_another_workflow(page: Any) -> None:
    workflow = quick_workflow("copy")
    load(page, workflow)
    say(page, workflow["id"], "12")
    paste = """type => {
        const before = new Set(app.graph.nodes);
        app.canvas.pasteFromClipboard();
        const pasted = app.graph.nodes.find(node => !before.has(node) && node.type === type);
        window.pasted = pasted;
    }"""
    state = "[pasted.widgets.at(-1).element.title.split('\\n')[0], pasted.properties.onediff ?? null]"
    page.evaluate(
        """type => {
        app.canvas.deselectAll();
        app.canvas.selectNode(app.graph.nodes.find(node => node.type === type));
        app.canvas.copyToClipboard();
    }""",
        CHECK,
    )
    page.evaluate(paste, CHECK)
    page.wait_for_timeout(1200)
    assert page.evaluate(state) == [NOT_RUN, None]
    assert text(page) == "✓ no problems · 1 module"
    load(page, quick_workflow("cop2"))
    page.evaluate(paste, CHECK)
    page.wait_for_timeout(1200)
    assert page.evaluate(state) == [NOT_RUN, None]


def two_uses_of_a_subgraph(page: Any, name: str) -> dict[str, Any]:
    """The quick workflow with the two OneDiff nodes in a subgraph, which is used a second time by a node 99."""
    load(page, quick_workflow(name))
    page.evaluate(
        """() => {
        const inner = app.graph.nodes.filter(node => node.type.startsWith("OneDiff"));
        app.graph.convertToSubgraph(new Set(inner));
    }"""
    )
    workflow = page.evaluate("app.graph.serialize()")
    use = next(node for node in workflow["nodes"] if node["type"] not in ("CheckpointLoaderSimple", "PreviewAny"))
    loader, preview = (
        next(node for node in workflow["nodes"] if node["type"] == kind)
        for kind in ("CheckpointLoaderSimple", "PreviewAny")
    )
    again, shown = copy.deepcopy(use), copy.deepcopy(preview)
    again |= {"id": 99, "pos": [use["pos"][0], 400]}
    shown |= {"id": 100, "pos": [preview["pos"][0], 400]}
    report = next(slot for slot, output in enumerate(again["outputs"]) if output["links"])
    again["inputs"][0]["link"], again["outputs"][report]["links"], shown["inputs"][0]["link"] = 900, [901], 901
    loader["outputs"][0]["links"].append(900)
    workflow["nodes"] += [again, shown]
    workflow["links"] += [[900, 11, 0, 99, 0, "MODEL"], [901, 99, report, 100, 0, "STRING"]]
    workflow |= {"last_node_id": 100, "last_link_id": 901}
    load(page, workflow)
    return {"use": use["id"], "workflow": workflow}


OPEN = """id => {
    const node = app.rootGraph.nodes.find(node => node.id == id);
    app.canvas.setGraph(app.rootGraph);
    app.canvas.openSubgraph(node.subgraph, node);
}"""


@pytest.mark.parametrize("renderer", mostly("classic"))
def test_in_a_subgraph_and_in_each_of_two_uses_of_it(page: Any, renderer: str) -> None:
    use_renderer(page, renderer)
    made = two_uses_of_a_subgraph(page, f"sub{'cn'[renderer == 'nodes2']}")
    run(page)
    page.evaluate(OPEN, made["use"])
    page.wait_for_timeout(1200)
    assert text(page) == CHECKED
    workflow = made["workflow"]["id"]
    tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
    steps = f"({tracker}.captureCanvasState(), {tracker}.undoQueue.length)"
    before = page.evaluate(steps)
    say(page, workflow, f"{made['use']}:12", modules=11)
    say(page, workflow, "99:12", modules=22)
    assert text(page).endswith("11 modules"), "the use that is open, not the newest"
    assert page.evaluate(steps) == before, "a receipt is no step"
    page.evaluate(OPEN, 99)
    page.wait_for_timeout(1200)
    assert text(page).endswith("22 modules")
    receipt = page.evaluate("app.canvas.graph.nodes.find(node => node.id == 12).properties.onediff.summary")
    assert receipt == "checked 22"
    assert page.evaluate(steps) == before


def test_when_comfyui_takes_the_nodes_from_its_cache(page: Any) -> None:
    load(page, quick_workflow("cach"))
    run(page)
    run(page)
    assert (text(page), text(page, PATCH)) == (CHECKED, PATCHED)


def test_after_a_reload_and_in_a_second_browser(editors: Any) -> None:
    page = editors()
    workflow = quick_workflow("load")
    load(page, workflow)
    assert text(page) == NOT_RUN
    run(page)
    assert (text(page), text(page, PATCH)) == (CHECKED, PATCHED)
    # The editor keeps its open workflow a moment after the last change.
    page.wait_for_timeout(2000)
    page.reload()
    ready(page)
    page.wait_for_timeout(2500)
    assert (text(page), text(page, PATCH)) == (CHECKED, PATCHED)

    second = editors()
    load(second, workflow)
    assert (text(second), text(second, PATCH)) == (CHECKED, PATCHED)
    for renderer in RENDERERS:
        use_renderer(second, renderer)
        assert text(second) == CHECKED, renderer


@pytest.mark.long
def test_two_browsers_whose_workflows_both_have_a_node_12(editors: Any, server: Any) -> None:
    """The second runs what ComfyUI cached for the first: equal nodes with equal ids, and no node executes."""
    first, second = editors(), editors()
    load(first, quick_workflow("one"))
    load(second, quick_workflow("two"))
    run(first)
    assert (text(first), text(second)) == (CHECKED, NOT_RUN)
    run(second)
    assert (text(first), text(second)) == (CHECKED, CHECKED)
    assert server.status()[f"{quick_workflow('two')['id']}:12"]["state"] == "checked", "and for any other browser"

    # Now with another setting, so that both have records of their own.
    for page, sites in ((second, "self"), (first, "cross")):
        page.evaluate("sites => { app.graph.nodes.find(node => node.id == 10).widgets[1].value = sites; }", sites)
    first.evaluate("app.queuePrompt(0)")
    run(second)
    first.wait_for_timeout(1500)
    assert text(first, PATCH) == text(second, PATCH) == "✓ 7 sites patched · sdpa"
    seen = [server.status()[f"{quick_workflow(name)['id']}:10"]["patches"]["sites"] for name in ("one", "two")]
    assert [site["site"][-1] for site in (seen[0][0], seen[1][0])] == ["2", "1"]


def test_after_a_restart_of_the_server(editors: Any, environment: Environment) -> None:
    """What was measured before stays in the page and says so; a file saved then is known as this browser's own."""
    own_files = environment.cache / "e2e" / "restart" / "models" / "attention_processors"
    shutil.rmtree(own_files, ignore_errors=True)
    with start(environment, "restart") as server:
        assert own_files.is_dir(), "for a person's own processors: it is there since the pack was first started"
        page = editors(server.url)
        load(page, quick_workflow("stop"))
        run(page)
        assert text(page) == CHECKED
        port = server.port
        saved = page.evaluate("app.graph.serialize()")
    page.wait_for_timeout(1000)
    with start(environment, "restart", ports=(port,)) as server:
        assert server.port == port
        page.wait_for_function(
            "!document.querySelector('.onediff-status').title.startsWith('✓')", timeout=MINUTES, polling=500
        )
        line = read(page)
        assert line["text"] == "◷ before restart · no problems · 348 modules"
        assert line["title"].split("\n")[1].startswith("Measured before the server restarted.")
        for renderer in RENDERERS:
            use_renderer(page, renderer)
            show(page, f"presence-restart-{renderer}")
            assert text(page).startswith("◷ before restart · ")
        page.reload()
        ready(page)
        page.wait_for_timeout(2500)
        load(page, saved)
        said = [text(page)]
        while not said[-1].startswith("◷ earlier") and len(said) < 30:  # the receipt is asked of the server
            page.wait_for_timeout(500)
            said.append(text(page))
        assert said[-1].startswith("◷ earlier · checked 348 modules, no problems"), said  # elsewhere: test_receipt.py
        run(page)
        assert text(page) == CHECKED


def test_a_record_tells_what_a_linked_input_was_given_and_by_which_node(server: Any) -> None:
    workflow = quick_workflow("linked")
    prompt = to_prompt(workflow, server.object_info())
    prompt["20"] = {"class_type": "PrimitiveString", "inputs": {"value": "middle_block*"}}
    prompt["10"]["inputs"]["blocks"] = ["20", 0]
    server.run(prompt, workflow)
    record = server.status()[f"{workflow['id']}:10"]
    assert record["settings"] == {"processor": "sdpa", "sites": "all", "blocks": "middle_block*", "quality": "exact"}
    assert record["sources"] == {"blocks": ["20", 0]}
    assert record["upstream"] == {"11": {"ckpt_name": "sd15_small.safetensors"}}
