"""Fifty OneDiff nodes in one graph, all live at once, which is more than a server can keep busy: it runs one model."""

from __future__ import annotations

from typing import Any

import pytest
from editor import CHECK, load, mostly, open_editor, use_renderer

NODES = 50
SECONDS = 6
WORKFLOW = "00000000-0000-4000-8000-0000000050de"

# Two events a second and node, in the page as the websocket brings them, and what the page makes of them.
FLOOD = """async ({ workflow, nodes, seconds }) => {
    const api = window.comfyAPI.api.api;
    const seen = { mutations: 0, writes: 0, messages: 0, blocked: 0 };
    const observer = new MutationObserver(records => {
        seen.mutations += records.length;
        seen.writes += records.filter(record => record.attributeName === "title").length;
    });
    for (const line of document.querySelectorAll(".onediff-status"))
        observer.observe(line, { attributes: true, childList: true, characterData: true, subtree: true });
    const began = performance.now();
    for (let round = 0; performance.now() - began < seconds * 1000; round += 1) {
        const at = performance.now();
        for (let node = 1; node <= nodes; node += 1) {
            const progress = { done: round, total: 686, path: `input_blocks.${node}.1`, seconds: round / 2 };
            api.dispatchCustomEvent("onediff.status", { workflow, node: String(node), state: "checking", progress });
            seen.messages += 1;
        }
        seen.blocked = Math.max(seen.blocked, performance.now() - at);
        await new Promise(resolve => setTimeout(resolve, 500 - (performance.now() - began) % 500));
    }
    observer.disconnect();
    return seen;
}"""


def fifty() -> dict[str, Any]:
    nodes = [
        {
            "id": number,
            "type": CHECK,
            "pos": [(number - 1) % 10 * 240, (number - 1) // 10 * 180],
            "size": [220, 140],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [{"name": "model", "type": "MODEL", "link": None}],
            "outputs": [{"name": kind, "type": kind, "links": []} for kind in ("MODEL", "STRING", "BOOLEAN")],
            "properties": {},
            "widgets_values": ["report"],
        }
        for number in range(1, NODES + 1)
    ]
    return {"id": WORKFLOW, "version": 0.4, "last_node_id": NODES, "last_link_id": 0, "nodes": nodes, "links": []}


@pytest.mark.parametrize("renderer", mostly("nodes2"))
def test_fifty_live_nodes(browser: Any, server: Any, renderer: str) -> None:
    context = browser.new_context(viewport={"width": 1600, "height": 900})
    page = open_editor(context.new_page(), server.url)
    use_renderer(page, renderer)
    load(page, fifty())
    page.evaluate("app.canvas.ds.scale = 0.6; app.canvas.ds.offset = [60, 200]; app.canvas.setDirty(true, true)")
    page.wait_for_timeout(1500)
    assert page.locator(".onediff-status").count() == NODES
    metrics = context.new_cdp_session(page)
    metrics.send("Performance.enable")

    def script_seconds() -> float:
        found = {entry["name"]: entry["value"] for entry in metrics.send("Performance.getMetrics")["metrics"]}
        return found["ScriptDuration"]

    before = script_seconds()
    seen = page.evaluate(FLOOD, {"workflow": WORKFLOW, "nodes": NODES, "seconds": SECONDS})
    seen["script"] = script_seconds() - before
    rates = {name: value / SECONDS for name, value in seen.items() if name != "blocked"}
    assert rates["messages"] >= 90, rates
    assert 1.2 * NODES < rates["writes"] <= 2.4 * NODES, "each line follows, at most twice a second"
    assert rates["mutations"] <= 20 * NODES, rates
    assert rates["script"] < 0.5, "the page has time for other things"
    assert "checking" in page.locator(".onediff-status").first.get_attribute("title")
    context.close()
