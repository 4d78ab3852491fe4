"""Changing renderer, language or palette: no line is ever seen without words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from editor import CHECK, PATCH, example_workflow, load, open_editor, set_setting, states, tell, use_language

# Looks at every frame that is drawn, so that an empty line of a few milliseconds is found too.
WATCH = """() => {
    window.seen = { lines: 0, empty: 0, frames: 0 };
    const look = () => {
        const lines = [...document.querySelectorAll(".onediff-status")].filter(line => line.offsetParent !== null);
        seen.lines = Math.max(seen.lines, lines.length);
        seen.empty += lines.filter(line => !line.querySelector(".onediff-status-words").textContent).length;
        seen.frames += 1;
        window.watching = requestAnimationFrame(look);
    };
    look();
}"""
SEEN = "() => { cancelAnimationFrame(watching); return seen; }"
TEXTS = "() => app.graph.nodes.map(node => node.widgets?.at(-1)?.element?.title?.split('\\n')[0]).filter(Boolean)"


@pytest.fixture
def page(browser: Any, server: Any) -> Iterator[Any]:
    page = open_editor(browser.new_page(viewport={"width": 1900, "height": 1000}), server.url)
    # An id of its own: the server may know records of the example, which would come back with a language.
    load(page, {**example_workflow(page), "id": "00000000-0000-4000-8000-00000000c4a6"})
    known = states(page)
    tell(page, known["compiled"])
    tell(page, known["patched"], PATCH)
    tell(page, known["checked"], CHECK)
    yield page
    use_language(page, "en")
    set_setting(page, "Comfy.ColorPalette", "dark")
    set_setting(page, "Comfy.VueNodes.Enabled", False)
    page.close()


@pytest.mark.parametrize(("slowed", "times"), [pytest.param(1, 2, marks=pytest.mark.long), (6, 1)])
def test_no_line_is_empty_while_the_editor_is_changed(page: Any, slowed: int, times: int) -> None:
    """Also on a machine that is six times as slow."""
    before = [text[2:] for text in page.evaluate(TEXTS)]
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slowed})
    page.evaluate(WATCH)
    for nodes2 in (True, False) * times:
        set_setting(page, "Comfy.VueNodes.Enabled", nodes2)
        set_setting(page, "Comfy.ColorPalette", "light" if nodes2 else "dark")
        use_language(page, "zh" if nodes2 else "en")
    page.wait_for_timeout(1500)
    seen = page.evaluate(SEEN)
    assert seen["lines"] >= 3
    assert seen["frames"] > 20
    assert seen["empty"] == 0
    # The workflow was loaded again, from a server that never sent these records.
    assert [text.removeprefix("◷ before restart · ") for text in page.evaluate(TEXTS)] == before
