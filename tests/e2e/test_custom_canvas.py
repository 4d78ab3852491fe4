"""The steps of the help page “A processor of your own”, taken in the real editor. What pictures come of it is in
test_custom.py: here nothing is sampled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from editor import PATCH, QUEUE, READ, RENDERERS, load, show, use_renderer
from examples import ROOT
from quick import quick_workflow

from scripts.server import Server

CLASSES = ["custom/my_attention:MyAttention", "custom/my_attention:MyModuleAttention", "custom/my_attention:MyStandIn"]

OPTIONS = """type => app.graph.nodes.find(node => node.type === type)
    .widgets.find(widget => widget.name === "processor").options.values"""

CHOOSE = """([type, name]) => {
    app.graph.nodes.find(node => node.type === type).widgets.find(widget => widget.name === "processor").value = name;
}"""


@pytest.fixture
def folder(server: Server) -> Iterator[Path]:
    """Of the server that other tests use too: empty before, and after. Who makes it is in test_presence.py."""
    path = server.base / "models" / "attention_processors"

    def empty() -> None:
        for file in path.glob("*.*"):
            file.unlink()

    empty()
    yield path
    empty()


def test_from_nothing_to_a_processor_in_use_and_back_from_a_broken_file(opened: Any, folder: Path) -> None:
    page = opened
    use_renderer(page, "classic")
    load(page, quick_workflow("own"))
    show(page)
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
