"""The status line in the real editor: one run of the example workflow serves all cases."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCREENS = Path(os.environ.get("ONEDIFF_SCREENS", ROOT / ".cache" / "screens"))
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
RENDERERS = {"classic": False, "nodes2": True}
MINUTES = 60_000
COMPILE, PATCH, CHECK = "OneDiffCompile", "OneDiffPatchAttention", "OneDiffForwardCheck"

#: Any way in which a compile node can end that says how fast it is.
MEASURED = re.compile(r"^([▲◐] (compiled|partly compiled \d+/\d+) · \d+\.\d+× · |▽ kept uncompiled: )")

# What a person sees of a node's line: its text, and whether it lies open on the canvas.
READ = """type => {
    const node = window.app.graph.nodes.find(node => node.type === type);
    const element = node.widgets.at(-1).element;
    const { left, top, width, height } = element.getBoundingClientRect();
    const above = document.elementFromPoint(left + width / 2, top + height / 2);
    return {
        text: element.title.split("\\n")[0],
        title: element.title,
        label: element.getAttribute("aria-label"),
        visible: width > 0 && height > 0 && element.contains(above),
        inside: left >= 0 && width <= node.size[0] * window.app.canvas.ds.scale,
        overflows: element.scrollWidth > element.clientWidth,
    };
}"""

# Notes every change of a node's line with its time.
WATCH = """type => {
    const element = window.app.graph.nodes.find(node => node.type === type).widgets.at(-1).element;
    window.seen = [];
    window.watching?.disconnect();
    window.watching = new MutationObserver(() => window.seen.push([performance.now(), element.title.split("\\n")[0]]));
    window.watching.observe(element, { attributes: true, attributeFilter: ["title"] });
}"""

QUEUE = """async () => {
    const api = window.comfyAPI.api.api;
    const ended = new Promise((resolve, reject) => {
        api.addEventListener("execution_success", resolve, { once: true });
        const fail = event => reject(new Error(event.detail.exception_message));
        api.addEventListener("execution_error", fail, { once: true });
    });
    await window.app.queuePrompt(0);
    await ended;
}"""


@dataclass
class Seen:
    """An editor after one run of the example workflow, and what its compile node said meanwhile."""

    page: Any
    workflow: dict[str, Any]
    live: list[tuple[float, str]] = field(default_factory=list)

    def read(self, node: str = COMPILE) -> dict[str, Any]:
        return self.page.evaluate(READ, node)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    reason = os.environ.get("ONEDIFF_NO_BROWSER")
    if reason:
        pytest.skip(f"no browser: {reason}")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("the package playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = os.environ.get("ONEDIFF_CHROMIUM", next(filter(None, map(shutil.which, names)), None))
    if path is None:
        pytest.skip("Chromium is not installed")
    SCREENS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path or None, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def editor(browser: Any, server: Any) -> Seen:
    """The example workflow, run once in the classic renderer."""
    page = open_editor(browser.new_page(viewport={"width": 1600, "height": 900}), server.url)
    use_renderer(page, "classic")
    seen = Seen(page, example_workflow(page))
    load(page, seen.workflow)
    show(page)
    assert seen.read()["text"] == "○ not run yet"
    page.evaluate(WATCH, COMPILE)
    page.set_default_timeout(15 * MINUTES)
    page.evaluate(QUEUE)
    page.wait_for_timeout(1000)
    seen.live = page.evaluate("window.seen")
    show(page, "canvas-classic")
    return seen


def open_editor(page: Any, url: str) -> Any:
    page.goto(url)
    ready(page)
    page.evaluate("app.extensionManager.setting.set('Comfy.TutorialCompleted', true)")
    page.wait_for_timeout(1000)
    page.keyboard.press("Escape")
    return page


def ready(page: Any) -> None:
    page.wait_for_function("window.comfyAPI?.app?.app?.isGraphReady", timeout=2 * MINUTES)
    page.evaluate("window.app = window.comfyAPI.app.app")


def use_renderer(page: Any, name: str) -> None:
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", RENDERERS[name])
    page.wait_for_timeout(1500)


def load(page: Any, workflow: dict[str, Any]) -> None:
    page.evaluate("workflow => app.loadGraphData(workflow, true, true, 'canvas test')", workflow)
    page.wait_for_timeout(1500)


def show(page: Any, name: str | None = None) -> None:
    """Brings the three nodes into view at full size: when zoomed far out, the classic renderer draws no text at all."""
    page.evaluate(
        """type => {
        const [x, y] = app.graph.nodes.find(node => node.type === type).pos;
        app.canvas.ds.scale = 1;
        app.canvas.ds.offset = [140 - x, 200 - y];
        app.canvas.setDirty(true, true);
    }""",
        PATCH,
    )
    page.wait_for_timeout(1000)
    if name:
        page.screenshot(path=SCREENS / f"{name}.png")


def example_workflow(page: Any) -> dict[str, Any]:
    """The example, with a small checkpoint of this server and a small picture."""
    checkpoints = page.evaluate("fetch('/api/models/checkpoints').then(answer => answer.json())")
    small = next((name for name in checkpoints if "sd15_small" in name), None)
    assert small, f"the server has no small SD 1.5 checkpoint, only {checkpoints}"
    workflow = json.loads((ROOT / "example_workflows" / "sd15_onediff.json").read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        values = node.get("widgets_values")
        if node["type"] == "CheckpointLoaderSimple":
            values[0] = small
        elif node["type"] == "EmptyLatentImage":
            values[:2] = [128, 128]
        elif node["type"] == "KSampler":
            values[:3] = [7, "fixed", 8]
    return workflow


def test_the_compile_node_is_live_while_it_runs(editor: Seen) -> None:
    texts = [text for _, text in editor.live]
    assert any(re.match(r"^… compiling \d+/\d+", text) for text in texts), texts


def test_the_line_changes_at_most_twice_a_second(editor: Seen) -> None:
    times = [at for at, _ in editor.live]
    assert len(times) > 3
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) > 400, gaps


def test_the_other_nodes_say_what_they_did(editor: Seen) -> None:
    assert re.match(r"^✓ \d+ sites patched · sdpa$", editor.read(PATCH)["text"])
    assert re.match(r"^✓ no problems · \d+ modules$", editor.read(CHECK)["text"])


@pytest.mark.parametrize("renderer", RENDERERS)
def test_both_renderers_end_in_a_measured_state(editor: Seen, renderer: str) -> None:
    use_renderer(editor.page, renderer)
    show(editor.page, f"canvas-{renderer}")
    for node in (PATCH, CHECK, COMPILE):
        line = editor.read(node)
        assert line["visible"] and line["inside"] and not line["overflows"], (node, line)
    line = editor.read()
    assert MEASURED.match(line["text"]), line["text"]
    assert line["label"] == f"OneDiff status: {line['text'].partition(' ')[2]}"
    assert "A step takes" in line["title"]
    assert "The first compiled step" in line["title"]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_second_picture_is_followed_live_and_keeps_the_status_of_cached_nodes(editor: Seen, renderer: str) -> None:
    """Only the sampler runs again: the OneDiff nodes come from ComfyUI's cache and execute nothing."""
    use_renderer(editor.page, renderer)
    before = {node: editor.read(node)["text"] for node in (PATCH, CHECK)}
    editor.page.evaluate("app.graph.nodes.find(node => node.type === 'KSampler').widgets[0].value += 1")
    editor.page.evaluate(WATCH, COMPILE)
    editor.page.evaluate(QUEUE)
    editor.page.wait_for_timeout(1000)
    assert MEASURED.match(editor.read()["text"])
    assert not any("compiling" in text for _, text in editor.page.evaluate("window.seen")), "nothing is compiled twice"
    assert {node: editor.read(node)["text"] for node in (PATCH, CHECK)} == before


def test_the_same_workflow_again_changes_nothing(editor: Seen) -> None:
    before = editor.read()["title"]
    editor.page.evaluate(QUEUE)
    editor.page.wait_for_timeout(1000)
    assert editor.read()["title"] == before


def test_the_line_is_no_part_of_the_workflow_or_of_the_prompt(editor: Seen) -> None:
    saved = editor.page.evaluate("app.graph.serialize()")
    by_type = {node["type"]: node for node in saved["nodes"]}
    for node in editor.workflow["nodes"]:
        if node["type"] in (PATCH, CHECK, COMPILE):
            assert by_type[node["type"]]["widgets_values"] == node["widgets_values"]
    prompt = editor.page.evaluate("app.graphToPrompt().then(({ output }) => JSON.stringify(output))")
    assert "onediff_status" not in prompt


def test_a_second_tab_shows_the_same(editor: Seen, browser: Any, server: Any) -> None:
    page = open_editor(browser.new_page(), server.url)
    load(page, editor.workflow)
    assert page.evaluate(READ, COMPILE)["text"] == editor.read()["text"]
    page.close()


def test_another_workflow_with_the_same_nodes_shows_nothing_of_it(editor: Seen, browser: Any, server: Any) -> None:
    page = open_editor(browser.new_page(), server.url)
    load(page, {**editor.workflow, "id": "00000000-0000-4000-8000-000000000001"})
    assert page.evaluate(READ, COMPILE)["text"] == "○ not run yet"
    page.close()


def test_a_copied_node_starts_afresh(editor: Seen) -> None:
    texts = editor.page.evaluate(
        """async type => {
        const lines = () => app.graph.nodes.filter(node => node.type === type).map(node => node.widgets.at(-1).element);
        app.canvas.deselectAll();
        app.canvas.selectNode(app.graph.nodes.find(node => node.type === type));
        app.canvas.copyToClipboard();
        app.canvas.pasteFromClipboard();
        await new Promise(resolve => setTimeout(resolve, 1200));
        const texts = lines().map(element => element.title.split("\\n")[0]);
        app.graph.remove(app.graph.nodes.filter(node => node.type === type).at(-1));
        return texts;
    }""",
        COMPILE,
    )
    assert MEASURED.match(texts[0])
    assert texts[1:] == ["○ not run yet"]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_the_page_can_be_reloaded(editor: Seen, renderer: str) -> None:
    use_renderer(editor.page, renderer)
    before = editor.read()["text"]
    # The editor saves its open workflow a moment after the last change.
    editor.page.wait_for_timeout(2000)
    editor.page.reload()
    ready(editor.page)
    editor.page.wait_for_timeout(2500)
    show(editor.page)
    line = editor.read()
    assert line["text"] == before
    assert line["visible"]
