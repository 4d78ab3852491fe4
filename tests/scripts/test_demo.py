"""What the demo leaves for the editor."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.prompt import load_workflow


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, which puts the repository in the first place of the path: here ComfyUI's folder has it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield importlib.import_module("scripts.demo")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("measure", "node_ids"):
            del sys.modules[name]


class Ended(Exception):
    pass


class Server:
    url = "http://127.0.0.1:8188"

    def check_alive(self) -> None:
        raise Ended


def test_the_address_opens_the_workflow_with_a_seed_that_did_not_run(
    demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The editor takes names by this pattern alone (front end 1.47, useTemplateUrlLoader), and else opens its own."""
    workflow = load_workflow(demo.WORKFLOW)
    entry: Any = {"prompt": [1, "id"], "outputs": {}}
    folder = demo.template_folder(tmp_path)
    demo.for_the_editor(folder, workflow, entry)
    server: Any = Server()
    with pytest.raises(Ended):
        demo.keep_open(server)
    found = re.search(r"/\?template=([a-zA-Z0-9_.-]+)&source=([a-zA-Z0-9_.-]+)$", capsys.readouterr().out, re.M)
    assert found
    assert folder == tmp_path / "custom_nodes" / found[2]
    opened = json.loads((folder / "example_workflows" / f"{found[1]}.json").read_text(encoding="utf-8"))
    (seeds, ran) = (
        [node["widgets_values"][0] for node in one["nodes"] if node["type"] == "KSampler"] for one in (opened, workflow)
    )
    assert len(seeds) == 1 and seeds != ran
