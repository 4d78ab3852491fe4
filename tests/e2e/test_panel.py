"""The report panel and the sidebar tab in the real editor, in both renderers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from editor import (
    CHECK,
    COMPILE,
    PATCH,
    example_workflow,
    keep_picture,
    line,
    load,
    mostly,
    open_editor,
    show,
    states,
    tell,
    use_renderer,
)


@pytest.fixture(scope="module")
def opened(browser: Any, server: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1600, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = open_editor(context.new_page(), server.url)
    yield page
    use_renderer(page, "classic")
    context.close()


@pytest.fixture(params=mostly("classic"))
def page(request: pytest.FixtureRequest, opened: Any) -> Any:
    """The example workflow, not run."""
    use_renderer(opened, request.param)
    load(opened, example_workflow(opened))
    show(opened)
    return opened


def panel(page: Any) -> str | None:
    return page.evaluate("document.querySelector('dialog.onediff-panel[open]')?.innerText ?? null")


def press(page: Any, text: str) -> None:
    page.locator("dialog.onediff-panel button", has_text=text).click()
    page.wait_for_timeout(200)


def test_a_click_opens_the_report_and_escape_closes_it(page: Any) -> None:
    tell(page, states(page)["compiled"])
    line(page).click()
    text = panel(page) or ""
    for said in (
        "compiled · 1.62×",
        "1.62× the uncompiled speed",
        "37 s (from scratch)",
        "38 of 38",
        "inductor 2.11.0",
    ):
        assert said in text
    page.keyboard.press("Escape")
    page.wait_for_timeout(200)
    assert page.locator("dialog.onediff-panel").count() == 0
    assert line(page).evaluate("button => button === document.activeElement"), "the focus goes back to the line"


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_it_works_by_keyboard_alone(page: Any, key: str) -> None:
    tell(page, states(page)["findings"], CHECK)
    before = page.evaluate("app.graph.nodes.length")
    line(page, CHECK).focus()
    page.keyboard.press(key)
    assert "rename __call__ to forward" in (panel(page) or "")
    reached = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                """() => {
            const at = document.activeElement;
            const inside = document.querySelector("dialog.onediff-panel").contains(at);
            return at === document.body ? "the browser" : inside ? at.textContent.slice(0, 20) : "outside";
        }"""
            )
        )
    assert "outside" not in reached
    assert {"Copy as Markdown", "Copy as JSON", "✕"} <= reached
    page.keyboard.press("Delete")
    page.keyboard.press("Control+b")
    page.keyboard.press("Escape")
    assert panel(page) is None
    assert page.evaluate("app.graph.nodes.length") == before, "keys in the panel do nothing on the canvas"
    assert page.evaluate("app.graph.nodes.every(node => node.mode === 0)")


def test_the_report_can_be_copied(page: Any) -> None:
    record = states(page)["compiled"]
    tell(page, record)
    line(page).click()
    press(page, "Copy as Markdown")
    text = page.evaluate("navigator.clipboard.readText()")
    assert text.startswith("## OneDiff Compile: compiled · 1.62×")
    assert "- **Gain**: 1.62× the uncompiled speed" in text
    assert "Copied." in (panel(page) or "")
    press(page, "Copy as JSON")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["speed"] == record["speed"]
    page.keyboard.press("Escape")


def test_text_of_a_model_stays_text(page: Any) -> None:
    hostile = "<img src=x onerror='window.harmed = true'>"
    record = states(page)["findings"]
    record["check"]["findings"][0].update(path=hostile, what=hostile, fix=hostile)
    record["model"] = {"class": hostile}
    tell(page, record, CHECK)
    line(page, CHECK).click()
    assert hostile in (panel(page) or "")
    page.wait_for_timeout(300)
    assert page.evaluate("window.harmed") is None
    page.keyboard.press("Escape")


def test_the_report_follows_the_run_and_keeps_what_was_unfolded(page: Any) -> None:
    known = states(page)
    tell(page, known["patched"], PATCH)
    line(page, PATCH).click()
    page.locator("dialog.onediff-panel summary").first.click()
    known["patched"]["patches"]["sites"][0]["site"] = "output_blocks.9.1"
    tell(page, known["patched"], PATCH)
    assert "output_blocks.9.1" in (panel(page) or ""), "new, and still unfolded"
    page.keyboard.press("Escape")
    tell(page, known["compiling"])
    line(page).click()
    assert "compiling 7/38" in (panel(page) or "")
    tell(page, known["compiled"])
    assert "1.62× the uncompiled speed" in (panel(page) or "")
    page.evaluate("type => app.graph.remove(app.graph.nodes.find(node => node.type === type))", COMPILE)
    page.wait_for_timeout(1200)
    assert panel(page) is None, "its node is gone"


def test_the_sidebar_lists_the_models_and_opens_their_reports(page: Any) -> None:
    tell(page, states(page)["compiled"])
    page.locator(".onediff-tab-button").click()
    page.wait_for_timeout(700)
    sidebar = page.locator(".onediff-sidebar")
    text = sidebar.inner_text()
    assert "sd15_small.safetensors" in text
    titles = ["Patch Attention Processors", "Forward Check", "OneDiff Compile"]
    assert sorted(titles, key=text.index) == titles, "in the order in which the model passes them"
    assert "compiled · 1.62×" in text
    sidebar.locator("button", has_text="OneDiff Compile").click()
    assert "1.62× the uncompiled speed" in (panel(page) or "")
    page.keyboard.press("Escape")
    page.locator(".onediff-tab-button").click()
    page.wait_for_timeout(300)
    assert page.locator(".onediff-sidebar").count() == 0


def test_a_check_leads_to_the_node_that_did_not_take_its_processor(page: Any) -> None:
    known = states(page)
    found = {
        **{"severity": "warning", "path": "processor", "class": "SoftCap", "where": "softcap.py:16"},
        **{"what": "custom/softcap:SoftCap is not in this model; sdpa is", "why": "It returns another shape."},
        **{"fix": "Join the heads.", "rule": "processor-not-used"},
    }
    check = {"modules": 348, "sites": 14, "errors": 0, "warnings": 1, "findings": [found]}
    tell(page, known["patched"], PATCH)
    tell(page, {**known["checked"], "check": check}, CHECK)
    line(page, CHECK).click()
    assert "Join the heads." in (panel(page) or "")
    assert page.locator("dialog.onediff-panel .onediff-panel-advice button").count() == 0, (
        "nothing is known of that node"
    )
    page.keyboard.press("Escape")
    tell(page, known["rejected"], PATCH)
    line(page, CHECK).click()
    keep_picture(page, f"panel-leads-on-{page.evaluate('LiteGraph.vueNodesMode === true')}")
    press(page, "Open the report of “Patch Attention Processors”")
    text = panel(page) or ""
    assert text.startswith("Patch Attention Processors") and "out.transpose(1, 2)" in text
    assert page.locator("dialog.onediff-panel").count() == 1
    page.keyboard.press("Escape")


def test_a_node_that_did_not_run_leads_to_the_check_that_stopped_it(page: Any) -> None:
    tell(page, states(page)["failed"], CHECK)
    line(page).click()
    press(page, "Open the report of “Forward Check”")
    assert (panel(page) or "").startswith("Forward Check")
    page.keyboard.press("Escape")
