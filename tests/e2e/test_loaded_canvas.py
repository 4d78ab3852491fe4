"""The nodes that load a processor, in the real editor, in both renderers."""

from __future__ import annotations

from typing import Any

import pytest
from editor import example_workflow, keep_picture, load, mostly, use_renderer
from onediff_pack.node_ids import IP_ADAPTER, LOAD_PROCESSOR, PATCH_ATTENTION

# Puts the two nodes in a row before the patch, below the checkpoint, and connects them as a person would.
CONNECT = """types => {
    const [load, adapter] = types.map(type => window.LiteGraph.createNode(type));
    const patch = app.graph.nodes.find(node => node.type === "OneDiffPatchAttention");
    [load, adapter].forEach((node, n) => {
        app.graph.add(node);
        node.pos = [patch.pos[0] - 660 + 330 * n, patch.pos[1] + 900];
    });
    const linked = [
        load.connect(0, adapter, adapter.findInputSlot("processor")),
        adapter.connect(0, patch, patch.findInputSlot("custom")),
    ];
    const wrong = load.connect(0, patch, patch.findInputSlot("model"));
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [760 - patch.pos[0], -460 - patch.pos[1]];
    app.canvas.setDirty(true, true);
    return { linked: linked.map(Boolean), wrong: Boolean(wrong) };
}"""

READ_NODES = """types => types.map(type => {
    const node = app.graph.nodes.find(node => node.type === type);
    return {
        title: node.title,
        inputs: node.inputs.map(input => input.name),
        widgets: node.widgets.map(widget => widget.name),
        size: [...node.size],
        least: [...node.computeSize()],
    };
})"""


@pytest.fixture(params=mostly("nodes2"))
def page(request: pytest.FixtureRequest, opened: Any) -> Any:
    use_renderer(opened, request.param)
    load(opened, example_workflow(opened))
    return opened


def test_they_connect_to_each_other_and_to_the_patch(page: Any, request: pytest.FixtureRequest) -> None:
    found = page.evaluate(CONNECT, [LOAD_PROCESSOR, IP_ADAPTER])
    assert found == {"linked": [True, True], "wrong": False}
    page.wait_for_timeout(1500)
    keep_picture(page, f"loaded-{request.node.callspec.params['page']}")
    loading, adapter = page.evaluate(READ_NODES, [LOAD_PROCESSOR, IP_ADAPTER])
    assert loading["title"] == "Load Attention Processor"
    assert loading["widgets"] == ["file", "strength"]
    assert adapter["title"] == "IP-Adapter Processor"
    assert adapter["widgets"] == ["weight", "start_percent", "end_percent"]
    assert {"processor", "clip_vision_output", "negative", "mask"} <= set(adapter["inputs"])
    prompt = page.evaluate("app.graphToPrompt().then(({ output }) => output)")
    ours = {node["class_type"]: (key, node["inputs"]) for key, node in prompt.items()}
    (load_key, _), (adapter_key, given) = ours[LOAD_PROCESSOR], ours[IP_ADAPTER]
    assert given["processor"] == [load_key, 0]
    assert (given["weight"], given["start_percent"], given["end_percent"]) == (1, 0, 1)
    assert ours[PATCH_ATTENTION][1]["custom"] == [adapter_key, 0]
