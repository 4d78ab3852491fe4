"""Drives the real editor: opening it, choosing the renderer, loading a workflow, reading a status line."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from examples import example_file
from onediff_pack.node_ids import COMPILE, FORWARD_CHECK, PATCH_ATTENTION

ROOT = Path(__file__).resolve().parents[1]
#: Where pictures of the page are kept for a person to look at. Without, none are taken: see `keep_picture`.
SCREENS = os.environ.get("ONEDIFF_SCREENS")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
#: Name of a renderer → whether the setting Comfy.VueNodes.Enabled is on.
RENDERERS = {"classic": False, "nodes2": True}


def mostly(renderer: str) -> list[Any]:
    """Both renderers, for tests of what is not drawn by them: the other one is part of ``--all``."""
    return [pytest.param(name, marks=[] if name == renderer else [pytest.mark.long]) for name in RENDERERS]


MINUTES = 60_000
PATCH, CHECK = PATCH_ATTENTION, FORWARD_CHECK


# What a person sees of a node's line: its text, and whether it lies open on the canvas.
READ = """type => {
    const node = window.app.graph.nodes.find(node => node.type === type);
    const element = node.widgets.at(-1).element;
    const { left, top, width, height } = element.getBoundingClientRect();
    const above = document.elementFromPoint(left + width / 2, top + height / 2);
    return {
        text: element.title.split("\\n")[0],
        title: element.title,
        label: element.querySelector("button").getAttribute("aria-label"),
        visible: width > 0 && height > 0 && element.contains(above),
        inside: left >= 0 && width <= node.size[0] * window.app.canvas.ds.scale,
        overflows: element.scrollWidth > element.clientWidth,
    };
}"""

# Nodes that lie on each other, and links that run under a node, by what is drawn; with `true` only what we put there.
FAULTS = """onlyOurs => {
    const { graph } = app.canvas;
    const box = node => ({ node, x: node.pos[0], y: node.pos[1] - 30, w: node.size[0], h: node.size[1] + 30 });
    const boxes = graph.nodes.map(box);
    const faults = [];
    for (const a of boxes) for (const b of boxes)
        if (a.node.id < b.node.id && a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h)
            faults.push(`${a.node.type} on ${b.node.type}`);
    const ours = node => node.type.startsWith("OneDiff");
    for (const { node } of boxes) node.inputs.forEach((input, slot) => {
        const link = input.link == null ? null : graph.getLink(input.link);
        if (!link) return;
        const from = graph.getNodeById(link.origin_id);
        if (!from) return; // it comes from the subgraph's edge
        const [x0, y0] = from.getConnectionPos(false, link.origin_slot);
        const [x1, y1] = node.getConnectionPos(true, slot);
        const reach = Math.hypot(x1 - x0, y1 - y0) / 4;
        const path = new Path2D(`M ${x0} ${y0} C ${x0 + reach} ${y0} ${x1 - reach} ${y1} ${x1} ${y1}`);
        const context = document.createElement("canvas").getContext("2d");
        context.lineWidth = 1;
        // A curve does not leave what lies between the points that it is made of.
        const [left, right] = [Math.min(x0, x1 - reach) - 1, Math.max(x0 + reach, x1) + 1];
        const [top, bottom] = [Math.min(y0, y1) - 1, Math.max(y0, y1) + 1];
        for (const other of boxes) {
            if (other.node === node || other.node === from) continue;
            if (other.x > right || other.x + other.w < left || other.y > bottom || other.y + other.h < top) continue;
            if (onlyOurs && !ours(other.node) && !(ours(node) || ours(from))) continue;
            for (let i = 4; i < other.w; i += 3) for (let j = 4, x = other.x + i; j < other.h; j += 3)
                if (context.isPointInStroke(path, x, other.y + j)) {
                    faults.push(`${from.type} → ${node.type} under ${other.node.type}`);
                    return;
                }
        }
    });
    return [...new Set(faults)];
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


@contextmanager
def chromium() -> Iterator[Any]:
    """A Chromium, or a skipped test that says why there is none."""
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
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path or None, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


def open_editor(page: Any, url: str) -> Any:
    """The editor in English and dark: the server keeps what an earlier test, or one that was cut off, has set."""
    page.goto(url)
    ready(page)
    page.evaluate(
        """async () => {
        const settings = { "Comfy.TutorialCompleted": true, "Comfy.Locale": "en", "Comfy.ColorPalette": "dark" };
        for (const [name, value] of Object.entries(settings)) await app.extensionManager.setting.set(name, value);
    }"""
    )
    page.wait_for_timeout(2500)  # until what it asks of the server after that it is ready has come too
    page.keyboard.press("Escape")
    return page


def ready(page: Any) -> None:
    page.wait_for_function("window.comfyAPI?.app?.app?.isGraphReady", timeout=2 * MINUTES)
    page.evaluate("void (window.app = window.comfyAPI.app.app)")


def use_renderer(page: Any, name: str) -> None:
    setting = "Comfy.VueNodes.Enabled"
    if page.evaluate("id => app.extensionManager.setting.get(id)", setting) is RENDERERS[name]:
        return
    page.evaluate("([id, on]) => app.extensionManager.setting.set(id, on)", [setting, RENDERERS[name]])
    page.wait_for_timeout(1500)


def set_setting(page: Any, name: str, value: Any) -> None:
    page.evaluate("([id, value]) => app.extensionManager.setting.set(id, value)", [name, value])
    page.wait_for_timeout(700)


def use_language(page: Any, name: str) -> None:
    """Waits until the host has loaded the workflow again: what was put on the canvas before that is dropped."""
    changes = page.evaluate(
        """name => {
        if (app.extensionManager.setting.get("Comfy.Locale") === name) return false;
        window.loadedAgain = new Promise(resolve =>
            app.registerExtension({ name: `Test.Language.${Date.now()}`, afterConfigureGraph: () => resolve() }));
        app.extensionManager.setting.set("Comfy.Locale", name);
        return true;
    }""",
        name,
    )
    if changes:
        page.evaluate("window.loadedAgain")
    page.wait_for_timeout(400)


def line(page: Any, node: str = COMPILE) -> Any:
    """The button that is a node's status line."""
    handle = page.evaluate_handle(
        "type => app.graph.nodes.find(n => n.type === type).widgets.at(-1).element.querySelector('button')", node
    )
    return handle.as_element()


def load(page: Any, workflow: dict[str, Any]) -> None:
    """Again where the editor brought back, after it said that it was ready, the workflow that it had open last."""
    wanted = sorted(str(node["id"]) for node in workflow["nodes"])
    for _ in range(3):
        page.evaluate("workflow => app.loadGraphData(workflow, true, true, 'canvas test')", workflow)
        page.wait_for_timeout(1500)
        if sorted(page.evaluate("app.canvas.graph.nodes.map(node => String(node.id))")) == wanted:
            return


def show(page: Any, name: str | None = None, first: str = PATCH) -> None:
    """Brings the nodes from ``first`` on into view at full size: zoomed far out, the classic renderer draws no text."""
    page.evaluate(
        """type => {
        const [x, y] = app.graph.nodes.find(node => node.type === type).pos;
        app.canvas.ds.scale = 1;
        app.canvas.ds.offset = [140 - x, 200 - y];
        app.canvas.setDirty(true, true);
    }""",
        first,
    )
    page.wait_for_timeout(1000)
    if name:
        keep_picture(page, name)


def keep_picture(page: Any, name: str) -> None:
    """Of the page, where somebody wants to look at it: no test does, and each takes the browser a while."""
    if SCREENS:
        Path(SCREENS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SCREENS) / f"{name}.png")


def example_workflow(page: Any) -> dict[str, Any]:
    """The example, with a small checkpoint of this server, a small picture, and a processor that has nothing to
    choose: what is told of it is the same each time. Without its author's receipts, and with an id of its own for each
    file of tests: on a server that they share, none sees what the runs of another one left."""
    checkpoints = page.evaluate("fetch('/api/models/checkpoints').then(answer => answer.json())")
    small = next((name for name in checkpoints if "sd15_small" in name), None)
    assert small, f"the server has no small SD 1.5 checkpoint, only {checkpoints}"
    workflow = json.loads(example_file("sd15").read_text(encoding="utf-8"))
    workflow["id"] = str(uuid.uuid5(uuid.UUID(workflow["id"]), os.environ["PYTEST_CURRENT_TEST"].partition("::")[0]))
    for node in workflow["nodes"]:
        values = node.get("widgets_values")
        node["properties"].pop("onediff", None)
        if node["type"] == "CheckpointLoaderSimple":
            values[0] = small
        elif node["type"] == PATCH:
            values[0] = "sdpa"
        elif node["type"] == "EmptyLatentImage":
            values[:2] = [64, 64]
        elif node["type"] == "KSampler":
            values[:3] = [7, "fixed", 8]
    return workflow


def states(page: Any) -> dict[str, dict[str, Any]]:
    """A record for each state, by a name of its own."""
    source = (ROOT / "tests" / "web" / "states.mjs").read_text(encoding="utf-8")
    # As a function's body: the editor's page may not import modules of other origins.
    return page.evaluate(f"() => {{ {source.replace('export const', 'const')}; return states; }}")


def tell(page: Any, record: dict[str, Any], node: str = COMPILE) -> None:
    """Lets a record arrive as if the server had sent it for a node, given by type or id, of the open workflow."""
    page.evaluate(
        """([record, key]) => {
        const node = app.graph.nodes.find(node => node.type === key || String(node.id) === key);
        const detail = { ...record, workflow: String(app.rootGraph.id), node: String(node.id) };
        window.comfyAPI.api.api.dispatchEvent(new CustomEvent("onediff.status", { detail }));
    }""",
        [record, node],
    )
    page.wait_for_timeout(700)
