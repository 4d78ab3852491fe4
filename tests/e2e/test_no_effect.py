"""A model that is merged away: the real host's merge takes only its weights, and the open page says soon that the nodes
before it had no effect."""

from __future__ import annotations

from typing import Any

import pytest
from editor import (
    COMPILE,
    MINUTES,
    PATCH,
    QUEUE,
    READ,
    RENDERERS,
    example_workflow,
    load,
    open_editor,
    show,
    use_renderer,
)

NOT_USED = "▽ not used: nothing sampled this model"


def merged_away(page: Any) -> dict[str, Any]:
    """The example with the host's merge of the checkpoint and the compiled model before the sampler: model1 and patches
    of model2."""
    workflow = example_workflow(page)
    nodes = {node["type"]: node for node in workflow["nodes"]}
    loader, compiled, sampler = nodes["CheckpointLoaderSimple"], nodes[COMPILE], nodes["KSampler"]
    sampler["widgets_values"][2] = 2
    link = next(slot["link"] for slot in sampler["inputs"] if slot["name"] == "model")
    first, second = 9001, 9002
    merge = {
        "id": 900,
        "type": "ModelMergeSimple",
        "pos": [compiled["pos"][0], compiled["pos"][1] + 400],
        "size": [220, 90],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [
            {"name": "model1", "type": "MODEL", "link": first},
            {"name": "model2", "type": "MODEL", "link": second},
        ],
        "outputs": [{"name": "MODEL", "type": "MODEL", "links": [link]}],
        "properties": {},
        "widgets_values": [1.0],
    }
    workflow["nodes"].append(merge)
    workflow["links"] = [
        [link, 900, 0, sampler["id"], 0, "MODEL"] if found[0] == link else found for found in workflow["links"]
    ]
    workflow["links"] += [
        [first, loader["id"], 0, 900, 0, "MODEL"],
        [second, compiled["id"], 0, 900, 1, "MODEL"],
    ]
    loader["outputs"][0]["links"].append(first)
    compiled["outputs"][0]["links"] = [second]
    workflow["id"] = "00000000-0000-4000-8000-00000000beef"
    return workflow


@pytest.fixture
def page(browser: Any, server: Any) -> Any:
    page = open_editor(browser.new_page(viewport={"width": 1600, "height": 900}), server.url)
    page.set_default_timeout(5 * MINUTES)
    use_renderer(page, "classic")
    yield page
    page.close()


def test_a_model_that_was_merged_away_shows_on_the_open_page_and_is_kept(page: Any, server: Any) -> None:
    workflow = merged_away(page)
    load(page, workflow)
    page.evaluate(QUEUE)
    page.wait_for_timeout(2000)  # it must not take longer than that
    for renderer in RENDERERS:
        use_renderer(page, renderer)
        show(page, f"not-used-{renderer}")
        for node in (PATCH, COMPILE):
            line = page.evaluate(READ, node)
            assert line["text"] == NOT_USED, (renderer, node)
            assert line["visible"] and line["inside"]
    records = server.status().values()
    unused = [record for record in records if record["workflow"] == workflow["id"] and record["unused"]]
    assert sorted(record["state"] for record in unused) == ["patched", "uncompiled"]
    checked = [r for r in records if r["workflow"] == workflow["id"] and r["state"] == "checked"]
    assert [record["unused"] for record in checked] == [None]
