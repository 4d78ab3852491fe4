"""The steps of the help page “A processor of your own”, taken in the real editor."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from editor import PATCH, QUEUE, READ, RENDERERS, example_workflow, load, open_editor, show, use_renderer
from examples import ROOT, start

from scripts.environment import Environment

CLASSES = ["custom/my_attention:MyAttention", "custom/my_attention:MyModuleAttention", "custom/my_attention:MyStandIn"]

OPTIONS = """type => app.graph.nodes.find(node => node.type === type)
    .widgets.find(widget => widget.name === "processor").options.values"""

CHOOSE = """([type, name]) => {
    app.graph.nodes.find(node => node.type === type).widgets.find(widget => widget.name === "processor").value = name;
}"""

# Mode 4 is bypassed.
BYPASS = "type => { app.graph.nodes.find(node => node.type === type).mode = 4; }"


@pytest.fixture(scope="module")
def folder(environment: Environment) -> Path:
    path = environment.cache / "e2e" / "own" / "models" / "attention_processors"
    shutil.rmtree(path, ignore_errors=True)
    return path


@pytest.fixture(scope="module")
def page(browser: Any, environment: Environment, folder: Path) -> Iterator[Any]:
    with start(environment, "own") as server:
        page = open_editor(browser.new_page(viewport={"width": 1600, "height": 900}), server.url)
        use_renderer(page, "classic")
        workflow = example_workflow(page)
        load(page, workflow)
        page.evaluate(BYPASS, "OneDiffCompile")
        show(page)
        yield page
        page.close()


def test_from_nothing_to_a_processor_in_use_and_back_from_a_broken_file(page: Any, folder: Path) -> None:
    assert folder.is_dir(), "it is there since the pack was first started"
    assert not list(folder.iterdir())
    assert not [name for name in page.evaluate(OPTIONS, PATCH) if name.startswith("custom/")]

    file = folder / "my_attention.py"
    shutil.copy(ROOT / "docs" / "my_attention.py", file)
    page.mouse.click(800, 850)
    page.keyboard.press("r")
    page.wait_for_timeout(3000)
    assert [name for name in page.evaluate(OPTIONS, PATCH) if name.startswith("custom/")] == CLASSES

    for name in CLASSES:
        page.evaluate(CHOOSE, [PATCH, name])
        page.evaluate(QUEUE)
        page.wait_for_timeout(1000)
        line = page.evaluate(READ, PATCH)
        assert line["text"] == f"✓ 14 sites patched · {name}", line["title"]

    source = file.read_text()
    file.write_text(source.replace("def forward(self, attn", "def forward(self attn"))
    page.evaluate(QUEUE)
    page.wait_for_timeout(1000)
    for renderer in RENDERERS:
        use_renderer(page, renderer)
        show(page, f"broken-file-{renderer}")
        line = page.evaluate(READ, PATCH)
        assert line["visible"] and line["inside"], line
        number = 1 + [row.startswith("    def forward(self, attn") for row in source.splitlines()].index(True)
        assert f"models/attention_processors/my_attention.py:{number}" in line["title"], line["title"]
        assert "SyntaxError" in line["title"], line["title"]
        assert "sdpa is used instead" in line["title"], line["title"]

    file.write_text(source)
    page.evaluate(QUEUE)
    page.wait_for_timeout(1000)
    assert page.evaluate(READ, PATCH)["text"] == f"✓ 14 sites patched · {CLASSES[-1]}"
