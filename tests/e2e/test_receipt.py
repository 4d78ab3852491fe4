"""The receipt in the workflow file: written without a trace in the undo history, shown as its author's elsewhere."""

from __future__ import annotations

import copy
import io
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from editor import CHECK, COMPILE, MINUTES, PATCH, QUEUE, READ, RENDERERS, load, mostly, open_editor, show, use_renderer
from quick import quick_workflow

WORKFLOW_ID = "00000000-0000-4000-8000-00000000{:04x}"
RECEIPT: dict[str, Any] = {
    "summary": "compiled · inductor · 1.62× · 38 blocks",
    "speed": {"eager_ms": 240.1, "compiled_ms": 148.2, "speedup": 1.62, "steps_ms": [148.1, 148.3], "kept": "compiled"},
    "parity": {"max_abs": 0.0004, "relative": 1.2e-06, "tolerance": 0.001, "passed": True},
    "machine": {"torch": "2.11.0", "device": "NVIDIA H100"},
    "measured_at": "2026-06-01T10:00:00+00:00",
}

# What the editor thinks of the workflow on the canvas, after a capture as any click makes it.
STATE = """() => {
    const workflow = app.extensionManager.workflow.activeWorkflow;
    workflow.changeTracker.captureCanvasState();
    return { undo: workflow.changeTracker.undoQueue.length, modified: workflow.isModified };
}"""

PROPERTY = "type => app.graph.nodes.find(node => node.type === type).properties.onediff ?? null"


@pytest.fixture(scope="module")
def page(browser: Any, server: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 600})
    page = open_editor(context.new_page(), server.url)
    page.set_default_timeout(3 * MINUTES)
    use_renderer(page, "classic")
    yield page
    context.close()


def compile_workflow(name: int, receipt: Any) -> dict[str, Any]:
    """The quick workflow, with a Compile node in place of the Patch node, which holds a receipt."""
    workflow = quick_workflow("file")
    node = next(node for node in workflow["nodes"] if node["type"] == PATCH)
    node |= {"type": COMPILE, "size": [300, 220], "properties": {"onediff": receipt}}
    node["widgets_values"] = ["auto", "blocks", "fast start", "run uncompiled", True]
    return {**workflow, "id": WORKFLOW_ID.format(name)}


def say(page: Any, workflow: str, node: str = "10", **fields: Any) -> None:
    """An event of the server about a node, as its websocket brings it."""
    record = {"workflow": workflow, "node": node, "state": "compiled", **RECEIPT, **fields}
    page.evaluate("record => window.comfyAPI.api.api.dispatchCustomEvent('onediff.status', record)", record)
    page.wait_for_timeout(1200)


def test_a_run_leaves_receipts_no_undo_step_and_nothing_to_save(page: Any) -> None:
    load(page, quick_workflow("runs"))
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
    before = page.evaluate(STATE)
    page.evaluate(QUEUE)
    page.wait_for_timeout(1200)
    assert page.evaluate(STATE) == before == {"undo": 0, "modified": False}
    for node, summary in ((PATCH, "patched 14 sites · sdpa"), (CHECK, r"checked \d+ modules, no problems")):
        receipt = page.evaluate(PROPERTY, node)
        assert re.fullmatch(summary, receipt["summary"])
        assert receipt["machine"]["device"] and receipt["measured_at"]


def test_undo_takes_back_what_the_user_did_and_leaves_the_receipt(page: Any) -> None:
    load(page, quick_workflow("undo"))
    page.evaluate("app.graph.nodes.find(node => node.id == 12).title = 'Mine'")
    assert page.evaluate(STATE)["undo"] == 1
    page.evaluate(QUEUE)
    page.wait_for_timeout(1200)
    receipt = page.evaluate(PROPERTY, CHECK)
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    page.wait_for_timeout(1500)
    assert page.evaluate("app.graph.nodes.find(node => node.id == 12).title") == "Forward Check"
    assert page.evaluate(PROPERTY, CHECK) == receipt
    assert page.evaluate(STATE) == {"undo": 0, "modified": False}
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.redo()")
    page.wait_for_timeout(1500)
    assert page.evaluate("app.graph.nodes.find(node => node.id == 12).title") == "Mine"
    assert page.evaluate(STATE)["undo"] == 1


def test_a_saved_workflow_holds_it_and_shows_it_elsewhere_as_its_authors(page: Any, browser: Any, server: Any) -> None:
    load(page, compile_workflow(1, None))
    say(page, WORKFLOW_ID.format(1))
    name = f"workflows/{uuid.uuid4().hex}.json"
    page.evaluate(
        """async name => {
        const workflow = app.extensionManager.workflow.activeWorkflow;
        await app.extensionManager.workflow.renameWorkflow?.(workflow, name);
        workflow.changeTracker.prepareForSave();
        await app.extensionManager.workflow.saveWorkflow(workflow);
    }""",
        name,
    )
    assert page.evaluate(STATE)["modified"] is False
    saved = json.loads(server.get("/userdata/" + name.replace("/", "%2F")))
    kept = next(node for node in saved["nodes"] if node["type"] == COMPILE)["properties"]["onediff"]
    assert kept == RECEIPT

    context = browser.new_context(viewport={"width": 1400, "height": 600})
    other = open_editor(context.new_page(), server.url)
    load(other, saved)
    line = other.evaluate(READ, COMPILE)
    assert re.match(r"^✎ author measured 1\.62× · NVIDIA H100 · 148 ms a compiled step · ", line["text"])
    assert "Measured by the author of this workflow on" in line["title"]
    assert other.evaluate(STATE) == {"undo": 0, "modified": False}
    context.close()


@pytest.mark.parametrize("renderer", mostly("nodes2"))
def test_the_authors_line_stands_until_this_machine_has_measured(page: Any, renderer: str) -> None:
    name = 2 + list(RENDERERS).index(renderer)
    use_renderer(page, renderer)
    load(page, compile_workflow(name, {**RECEIPT, "machine": {"device": "NVIDIA GeForce RTX 4090"}}))
    line = page.evaluate(READ, COMPILE)
    assert line["text"].startswith("✎ author measured 1.62× · ") and not line["overflows"]
    show(page, f"receipt-author-{renderer}", COMPILE)
    say(page, WORKFLOW_ID.format(name), state="measuring")
    assert page.evaluate(READ, COMPILE)["text"] == "… measuring"
    say(page, WORKFLOW_ID.format(name), speed={**RECEIPT["speed"], "speedup": 1.2, "verdict": "faster"})
    assert page.evaluate(READ, COMPILE)["text"].startswith("▲ compiled · 1.20×")
    show(page, f"receipt-mine-{renderer}", COMPILE)
    assert page.evaluate(PROPERTY, COMPILE)["speed"]["speedup"] == 1.2
    use_renderer(page, "classic")


def test_the_prompt_is_the_same_with_and_without_it(page: Any) -> None:
    prompts = []
    for receipt in (None, RECEIPT):
        load(page, compile_workflow(5, receipt))
        prompts.append(page.evaluate("app.graphToPrompt().then(({ output }) => JSON.stringify(output))"))
    assert prompts[0] == prompts[1]
    assert "NVIDIA" not in prompts[0]


def test_the_setting_leaves_out_the_device_or_everything(page: Any) -> None:
    load(page, compile_workflow(6, None))
    try:
        choose(page, "no device")
        say(page, WORKFLOW_ID.format(6))
        receipt = page.evaluate(PROPERTY, COMPILE)
        assert receipt["speed"]["speedup"] == 1.62 and "H100" not in json.dumps(receipt)
        choose(page, "off")
        assert page.evaluate(PROPERTY, COMPILE) is None
        say(page, WORKFLOW_ID.format(6))
        assert page.evaluate(PROPERTY, COMPILE) is None
        assert page.evaluate(STATE) == {"undo": 0, "modified": False}
        choose(page, "on")
        assert page.evaluate(PROPERTY, COMPILE)["machine"]["device"] == "NVIDIA H100"
    finally:
        choose(page, "on")


def choose(page: Any, value: str) -> None:
    page.evaluate("value => app.extensionManager.setting.set('OneDiff.Receipt', value)", value)
    page.wait_for_timeout(300)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"speed": value}
    return value


SCRIPT = "<img src=x onerror='window.hacked = true'><script>window.hacked = true</script>"
HOSTILE = {
    "number": 7,
    "list": [RECEIPT],
    "wrong types": {"summary": 3, "speed": "fast", "parity": [], "machine": "GPU", "measured_at": {}},
    "script": {"summary": SCRIPT, "speed": {"speedup": SCRIPT}, "machine": {"device": SCRIPT}, "measured_at": SCRIPT},
    "script and figures": {**RECEIPT, "summary": SCRIPT, "machine": {"device": SCRIPT}},
    "huge": {"summary": "x" * 1_000_000, "machine": {"device": "y" * 1_000_000}},
    "negative": {"speed": {"speedup": -1, "compiled_ms": -5}},
    "no numbers": {"speed": {"speedup": "NaN", "compiled_ms": None, "kept": "uncompiled"}},
    "too large": {"speed": {"speedup": 1e308}},
    "nesting": nested(200),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_file_holds_neither_breaks_loading_nor_runs(page: Any, name: str) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    load_text(page, json.dumps(compile_workflow(16 + list(HOSTILE).index(name), HOSTILE[name])))
    line = page.evaluate(READ, COMPILE)
    assert line["text"] == "○ not run yet" or line["text"].startswith("✎ author"), line["text"]
    assert len(line["title"]) < 3000
    assert page.evaluate("window.hacked ?? false") is False
    assert page.locator(".onediff-status").locator("img, script").count() == 0
    assert page.evaluate("({}).polluted ?? null") is None
    assert not errors


def load_text(page: Any, text: str) -> None:
    """As a file comes: an object of the page would lose a key __proto__, and Playwright stops at deep nesting."""
    page.evaluate("text => app.loadGraphData(JSON.parse(text), true, true, 'canvas test')", text)
    page.wait_for_timeout(1500)


def test_prototype_keys_of_a_file_are_not_taken_over(page: Any) -> None:
    text = json.dumps(compile_workflow(40, "HERE")).replace('"HERE"', '{"__proto__": {"summary": "x", "polluted": 1}}')
    load_text(page, text)
    assert page.evaluate(READ, COMPILE)["text"] == "○ not run yet"
    assert page.evaluate("({}).polluted ?? null") is None


def test_a_saved_picture_carries_what_was_known_when_it_was_queued(page: Any, server: Any) -> None:
    """The first picture is queued before anything is known; the second carries what the first run found."""
    from PIL import Image

    workflow = copy.deepcopy(quick_workflow("pics"))
    workflow["nodes"] += [
        {"id": 20, "type": "EmptyImage", "pos": [0, 300], "size": [300, 130], "flags": {}, "order": 0, "mode": 0,
         "inputs": [], "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [9]}], "properties": {},
         "widgets_values": [64, 64, 1, 0]},
        {"id": 21, "type": "SaveImage", "pos": [340, 300], "size": [300, 130], "flags": {}, "order": 0, "mode": 0,
         "inputs": [{"name": "images", "type": "IMAGE", "link": 9}], "outputs": [], "properties": {},
         "widgets_values": ["receipt"]},
    ]  # fmt: skip
    workflow["links"].append([9, 20, 0, 21, 0, "IMAGE"])
    load(page, workflow)
    receipts = []
    for color in (1, 2):
        page.evaluate("color => app.graph.nodes.find(node => node.id == 20).widgets[3].value = color", color)
        page.evaluate(QUEUE)
        page.wait_for_timeout(1200)
        newest = list(server.get_json("/history").values())[-1]
        image = Image.open(io.BytesIO(server.images(newest)[0]))
        nodes = {node["type"]: node for node in json.loads(image.info["workflow"])["nodes"]}
        receipts.append(nodes[CHECK]["properties"].get("onediff"))
        assert "onediff" not in json.dumps(json.loads(image.info["prompt"])[str(12)]["inputs"])
    assert receipts[0] is None
    assert receipts[1]["summary"].startswith("checked ")
