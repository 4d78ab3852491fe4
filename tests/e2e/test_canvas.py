"""The status line in the real editor: one run of the example workflow serves all cases."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from editor import (
    CHECK,
    COMPILE,
    MINUTES,
    PATCH,
    QUEUE,
    READ,
    RENDERERS,
    example_workflow,
    load,
    mostly,
    open_editor,
    ready,
    show,
    use_renderer,
)

BY_PATCH = r"(about \d+\.\d+× from attention · )?"

#: Any way in which a compile node can end that says how fast it is.
MEASURED = re.compile(
    r"^([▲◐] (compiled|partly compiled \d+/\d+)|▼ compiled, but slower|. compiled, no gain) · (about )?\d+\.\d+× "
    r"(together |from attention )?· "
    rf"|^[✓◐] (compiled|partly compiled \d+/\d+) · {BY_PATCH}not clear yet \(\d+ comparison"
    rf"|^▽ {BY_PATCH}(off: compiled is |compiling gains nothing"
    r"|uncompiled( · |: )(no clear gain|compiling gains nothing|compiled, it took longer))"
)

# Notes every change of a node's line with its time.
WATCH = """type => {
    const element = window.app.graph.nodes.find(node => node.type === type).widgets.at(-1).element;
    window.seen = [];
    window.watching?.disconnect();
    window.watching = new MutationObserver(() => window.seen.push([performance.now(), element.title.split("\\n")[0]]));
    window.watching.observe(element, { attributes: true, attributeFilter: ["title"] });
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
def editor(browser: Any, server: Any) -> Seen:
    """The example workflow, run once in the classic renderer."""
    page = open_editor(browser.new_page(viewport={"width": 1600, "height": 900}), server.url)
    use_renderer(page, "classic")
    seen = Seen(page, example_workflow(page))
    node = next(node for node in seen.workflow["nodes"] if node["type"] == COMPILE)
    node["widgets_values"][-1] = False  # so that it is compiled in any case: what would gain nothing here is left else
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


def test_the_compile_node_is_live_while_it_runs(editor: Seen) -> None:
    texts = [text for _, text in editor.live]
    assert any(re.match(r"^… compiling \d+/\d+", text) for text in texts), texts


def test_the_line_changes_at_most_twice_a_second(editor: Seen) -> None:
    times = [at for at, _ in editor.live]
    assert len(times) > 3
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) > 400, gaps


def test_the_other_nodes_say_what_they_did(editor: Seen) -> None:
    assert re.match(r"^✓ \d+ sites patched · sdpa( · attention [\d.]+×)?$", editor.read(PATCH)["text"])
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
    assert "Compiled blocks" in line["title"]


@pytest.mark.parametrize("renderer", mostly("nodes2"))
def test_a_second_picture_is_followed_live_and_keeps_the_status_of_cached_nodes(editor: Seen, renderer: str) -> None:
    """Only the sampler runs again: the OneDiff nodes come from ComfyUI's cache and execute nothing."""
    use_renderer(editor.page, renderer)
    figures = re.compile(r"[\d.]+×")  # what the patch gains is measured in each picture
    before = {node: figures.sub("", editor.read(node)["text"]) for node in (PATCH, CHECK)}
    editor.page.evaluate("app.graph.nodes.find(node => node.type === 'KSampler').widgets[0].value += 1")
    editor.page.evaluate(WATCH, COMPILE)
    editor.page.evaluate(QUEUE)
    editor.page.wait_for_timeout(1000)
    assert MEASURED.match(editor.read()["text"])
    assert not any("compiling" in text for _, text in editor.page.evaluate("window.seen")), "nothing is compiled twice"
    assert {node: figures.sub("", editor.read(node)["text"]) for node in (PATCH, CHECK)} == before


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


def test_another_checkpoint_marks_the_lines_until_it_is_taken_back(editor: Seen) -> None:
    before = editor.read()["text"]
    put = "name => { app.graph.nodes.find(n => n.type === 'CheckpointLoaderSimple').widgets[0].value = name; }"
    editor.page.evaluate(put, "another.safetensors")
    editor.page.wait_for_timeout(1200)
    for node in (PATCH, CHECK, COMPILE):
        line = editor.read(node)
        assert line["text"].startswith("◷ before your change · "), node
        assert "“Load Checkpoint” has other settings now" in line["title"]
    checkpoint = next(node for node in editor.workflow["nodes"] if node["type"] == "CheckpointLoaderSimple")
    editor.page.evaluate(put, checkpoint["widgets_values"][0])
    editor.page.wait_for_timeout(1200)
    assert editor.read()["text"] == before


@pytest.fixture(scope="module")
def second(browser: Any, server: Any) -> Iterator[Any]:
    """Another browser, in which nothing was run."""
    page = open_editor(browser.new_page(), server.url)
    yield page
    page.close()


def test_a_second_tab_shows_the_same(editor: Seen, second: Any) -> None:
    load(second, editor.workflow)
    assert second.evaluate(READ, COMPILE)["text"] == editor.read()["text"]


def test_a_second_tab_with_another_checkpoint_does_not_show_it_as_its_own(editor: Seen, second: Any) -> None:
    """A copy of the workflow has the same id; the server knows one record of both."""
    copy = json.loads(json.dumps(editor.workflow))
    next(n for n in copy["nodes"] if n["type"] == "CheckpointLoaderSimple")["widgets_values"] = ["another.safetensors"]
    load(second, copy)
    assert second.evaluate(READ, COMPILE)["text"].startswith("◷ before your change · ")


def test_another_workflow_with_the_same_nodes_shows_nothing_of_it(editor: Seen, second: Any) -> None:
    load(second, {**editor.workflow, "id": "00000000-0000-4000-8000-000000000001"})
    assert second.evaluate(READ, COMPILE)["text"] == "○ not run yet"


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


@pytest.mark.parametrize("renderer", mostly("nodes2"))
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
