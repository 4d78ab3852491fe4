"""Settings, commands, marks, toasts, and what the lines cost the page, in the real editor, in both renderers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from editor import (
    CHECK,
    COMPILE,
    PATCH,
    READ,
    RENDERERS,
    example_workflow,
    keep_picture,
    line,
    load,
    mostly,
    open_editor,
    set_setting,
    show,
    states,
    tell,
    use_renderer,
)

DISPLAY, MARKS = "OneDiff.Status.Display", "OneDiff.Status.MarkSamplers"

# Counts the listeners on what outlives a node, and the timers that repeat.
COUNT = """() => {
    const listeners = [];
    const { addEventListener, removeEventListener } = EventTarget.prototype;
    const global = target => target === window || target === document || target === document.body;
    const same = (type, listener, options) => one =>
        one[0] === type && one[1] === listener && one[2] === Boolean(options?.capture ?? options);
    EventTarget.prototype.addEventListener = function (type, listener, options) {
        if (global(this ?? window) && !options?.once) {
            const one = [type, listener, Boolean(options?.capture ?? options)];
            listeners.push(one);
            options?.signal?.addEventListener("abort", () => listeners.splice(listeners.indexOf(one), 1));
        }
        return addEventListener.call(this, type, listener, options);
    };
    EventTarget.prototype.removeEventListener = function (type, listener, options) {
        const index = global(this ?? window) ? listeners.findIndex(same(type, listener, options)) : -1;
        if (index >= 0) listeners.splice(index, 1);
        return removeEventListener.call(this, type, listener, options);
    };
    const timers = new Set();
    const { setInterval, clearInterval } = window;
    window.setInterval = (...args) => { const id = setInterval(...args); timers.add(id); return id; };
    window.clearInterval = id => { timers.delete(id); clearInterval(id); };
    window.counts = () => ({ listeners: listeners.length, timers: timers.size });
}"""


@pytest.fixture(scope="module")
def opened(browser: Any, server: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1600, "height": 900})
    page = context.new_page()
    page.add_init_script(f"({COUNT})()")
    yield open_editor(page, server.url)
    for setting, value in ((DISPLAY, "full"), (MARKS, True), ("Comfy.VueNodes.Enabled", False)):
        set_setting(page, setting, value)
    context.close()


@pytest.fixture(params=RENDERERS)
def page(request: pytest.FixtureRequest, opened: Any) -> Any:
    """The example workflow, not run."""
    use_renderer(opened, request.param)
    load(opened, example_workflow(opened))
    show(opened)
    return opened


#: Dialogs and messages: no renderer draws them.
in_one_of_them = pytest.mark.parametrize("page", mostly("nodes2"), indirect=True)


def mark_of_the_sampler(page: Any) -> str:
    """What is shown above the sampler, empty when nothing is."""
    return page.evaluate(
        """() => {
        const node = app.graph.nodes.find(node => node.type === "KSampler");
        const element = document.querySelector(`.lg-node[data-node-id="${node.id}"]`);
        if (element) {
            const { content } = getComputedStyle(element, "::before");
            return content === "none" ? "" : content.replaceAll('"', "");
        }
        const badges = node.badges.map(badge => (typeof badge === "function" ? badge() : badge).text);
        return badges.find(text => text.includes("uncompiled") || text.includes("failed")) ?? "";
    }"""
    )


def test_the_line_can_be_short_or_absent(page: Any) -> None:
    tell(page, states(page)["compiled"])
    # Nodes 2.0 notes the height of what it draws whenever that changes.
    for more in (100, 0):
        page.evaluate("more => app.graph.nodes.forEach(n => n.setSize([300, n.computeSize()[1] + more]))", more)
        page.wait_for_timeout(700)
    heights = "types => types.map(type => app.graph.nodes.find(node => node.type === type).size[1])"
    types = [PATCH, CHECK, COMPILE]
    prompt = "app.graphToPrompt().then(({ output }) => JSON.stringify(output))"
    full, asked = page.evaluate(heights, types), page.evaluate(prompt)
    set_setting(page, DISPLAY, "short")
    assert line(page).inner_text().split() == ["▲", "compiled", "1.62×"]
    assert page.evaluate(heights, types) == [
        full[0] - 18,
        full[1] - 18,
        full[2] - 18 - 12,
    ], "one row, and no plot of steps"
    set_setting(page, DISPLAY, "none")
    assert line(page).bounding_box() is None, "nothing is shown"
    line_and_gaps = 48 if page.evaluate("!LiteGraph.vueNodesMode") else 40
    assert page.evaluate(heights, types) == [
        full[0] - line_and_gaps,
        full[1] - line_and_gaps,
        full[2] - line_and_gaps - 12,
    ]
    assert page.evaluate(prompt) == asked
    show_report = "app.extensionManager.command.execute('OneDiff.ShowReport')"
    page.evaluate(show_report)
    page.wait_for_timeout(500)
    assert "1.62× the uncompiled speed" in page.locator("dialog.onediff-panel").inner_text(), "the one that has run"
    page.keyboard.press("Escape")
    set_setting(page, DISPLAY, "full")
    assert page.evaluate(heights, types) == full
    read = page.evaluate(READ, COMPILE)
    assert read["visible"] and read["text"].startswith("▲ compiled · 1.62×")


def test_bypassing_by_keyboard_shows_within_a_second(page: Any) -> None:
    tell(page, states(page)["compiled"])
    page.evaluate(
        """type => {
        app.canvas.deselectAll();
        app.canvas.selectNode(app.graph.nodes.find(node => node.type === type));
        app.canvas.canvas.focus();
    }""",
        COMPILE,
    )
    page.keyboard.press("Control+b")
    page.wait_for_timeout(1100)
    assert page.evaluate(READ, COMPILE)["text"].endswith("switched off")
    page.keyboard.press("Control+b")
    page.wait_for_timeout(1100)
    assert page.evaluate(READ, COMPILE)["text"].startswith("▲ compiled")


def test_a_sampler_behind_an_uncompiled_model_is_marked_until_that_changes(page: Any) -> None:
    known = states(page)
    assert mark_of_the_sampler(page) == ""
    tell(page, known["uncompiled"])
    assert mark_of_the_sampler(page) == "▽ model runs uncompiled"
    set_setting(page, MARKS, False)
    assert mark_of_the_sampler(page) == ""
    set_setting(page, MARKS, True)
    assert mark_of_the_sampler(page) == "▽ model runs uncompiled"
    for other, on in reversed(RENDERERS.items()):
        set_setting(page, "Comfy.VueNodes.Enabled", on)
        page.wait_for_timeout(1000)
        assert mark_of_the_sampler(page) == "▽ model runs uncompiled", other
    assert "runs uncompiled" not in page.evaluate("JSON.stringify(app.graph.serialize())")
    tell(page, known["compiled"])
    assert mark_of_the_sampler(page) == ""


@in_one_of_them
def test_the_command_opens_the_worst_report_and_without_nodes_the_sidebar_and_never_closes_it(page: Any) -> None:
    known = states(page)
    show_report = "app.extensionManager.command.execute('OneDiff.ShowReport')"
    tell(page, known["compiled"])
    tell(page, known["findings"], CHECK)
    page.evaluate("app.canvas.deselectAll()")
    page.evaluate(show_report)
    page.wait_for_timeout(500)
    assert "rename __call__ to forward" in page.locator("dialog.onediff-panel").inner_text()
    page.keyboard.press("Escape")
    page.evaluate("app.graph.clear()")
    page.wait_for_timeout(700)
    for _ in range(2):
        page.evaluate(show_report)
        page.wait_for_timeout(700)
        assert page.locator(".onediff-sidebar").count() == 1
    page.locator(".onediff-tab-button").click()


@in_one_of_them
def test_the_settings_page_says_what_is_kept_and_clears_it(page: Any) -> None:
    kept = {
        "cache": {"bytes": 312 * 2**20, "files": 40, "limit": 2**31},
        "models": [{"file": "sd15.safetensors", "class": "UNetModel", "parameters": 859_520_964, "dtype": "float16"}],
    }
    empty = {"cache": {"bytes": 0, "files": 0, "limit": 2**31}, "models": []}
    cleared: list[str] = []

    def clear(route: Any) -> None:
        cleared.append(route.request.post_data_json["what"])
        route.fulfill(json={"cleared": "Done."})

    page.route("**/onediff/kept", lambda route: route.fulfill(json=empty if cleared else kept))
    page.route("**/onediff/clear", clear)
    page.evaluate("app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.wait_for_timeout(1000)
    page.get_by_role("dialog").get_by_text("OneDiff", exact=True).first.click()
    page.get_by_text("312 MB in 40 files, of 2048 MB at most").wait_for(timeout=5000)
    assert page.get_by_text("sd15.safetensors, UNetModel, 860 M parameters, float16").count() == 1
    assert page.get_by_text("Seconds of compiling in one picture").count() == 1
    keep_picture(page, f"settings-{len(page.query_selector_all('.lg-node')) > 0}")
    page.locator(".onediff-kept button", has_text="Clear").first.click()  # the cache; the other one, measurements
    page.get_by_text("empty", exact=True).wait_for(timeout=5000)
    assert cleared == ["compile cache"]
    page.unroute("**/onediff/kept")
    page.unroute("**/onediff/clear")
    page.keyboard.press("Escape")
    page.evaluate("app.extensionManager.toast.removeAll()")
    page.wait_for_timeout(500)


@in_one_of_them
def test_clearing_says_what_the_server_answers(page: Any) -> None:
    asked: list[Any] = []

    def answer(route: Any) -> None:
        asked.append(route.request.post_data_json)
        route.fulfill(json={"cleared": "The step times of 2 models are forgotten."})

    page.route("**/onediff/clear", answer)
    page.evaluate("app.extensionManager.command.execute('OneDiff.ClearMeasurements')")
    page.get_by_text("The step times of 2 models are forgotten.").first.wait_for(timeout=5000)
    page.evaluate("app.extensionManager.command.execute('OneDiff.ClearCompileCache')")
    page.wait_for_timeout(500)
    assert asked == [{"what": "measurements"}, {"what": "compile cache"}]
    page.unroute("**/onediff/clear")
    page.evaluate("app.extensionManager.toast.removeAll()")


@in_one_of_them
def test_a_toast_only_for_what_needs_action_and_once(page: Any) -> None:
    known = states(page)
    known["uncompiled"]["backend"]["reason"] = f"no compiler in {page.evaluate('Math.random()')}: install one"
    page.evaluate("app.extensionManager.toast.removeAll()")
    page.wait_for_timeout(500)
    for name in ("compiling", "compiled", "partial", "slower", "uncompiled", "uncompiled"):
        tell(page, known[name])
    toasts = page.locator(".p-toast-message")
    assert [text for text in toasts.all_inner_texts() if "install one" in text] == toasts.all_inner_texts()
    assert toasts.count() == 1
    page.evaluate("app.extensionManager.toast.removeAll()")


def test_nothing_survives_the_removal_of_a_node(page: Any) -> None:
    page.evaluate("app.graph.clear()")
    page.wait_for_timeout(1500)
    before = page.evaluate("counts()")
    for _ in range(2):
        page.evaluate(
            """() => {
            window.ours = Array.from({ length: 20 }, (_, index) => {
                const node = LiteGraph.createNode("OneDiffCompile");
                node.pos = [300 * (index % 5), 300 * Math.floor(index / 5)];
                return app.graph.add(node);
            });
        }"""
        )
        page.wait_for_timeout(1500)
        during = page.evaluate("counts()")
        page.evaluate("app.graph.nodes.slice().forEach(node => app.graph.remove(node))")
        page.wait_for_timeout(1500)
        assert page.evaluate("counts()") == before, (before, during)
    assert during["timers"] == before["timers"] + 1, "one timer for all nodes"


def test_fifty_live_nodes_are_written_at_most_twice_a_second_each(page: Any) -> None:
    """Up to twenty messages a second for each of fifty nodes: ten times what the server allows itself."""
    known = states(page)["compiling"]
    writes, seconds = page.evaluate(
        """async record => {
        app.graph.clear();
        const writes = [];
        const nodes = Array.from({ length: 50 }, (_, index) => {
            const node = LiteGraph.createNode("OneDiffCompile");
            node.pos = [240 * (index % 10), 260 * Math.floor(index / 10)];
            app.graph.add(node);
            return node;
        });
        await new Promise(resolve => setTimeout(resolve, 1500));
        const observers = nodes.map((node, index) => {
            writes[index] = 0;
            const observer = new MutationObserver(() => (writes[index] += 1));
            const all = { childList: true, subtree: true, attributes: true, characterData: true };
            observer.observe(node.widgets.at(-1).element, all);
            return observer;
        });
        const start = performance.now();
        for (let step = 0; step < 60; step += 1) {
            for (const node of nodes) {
                const progress = { ...record.progress, done: step, total: 60 };
                const detail = { ...record, progress, workflow: String(app.graph.id), node: String(node.id) };
                window.comfyAPI.api.api.dispatchEvent(new CustomEvent("onediff.status", { detail }));
            }
            await new Promise(resolve => setTimeout(resolve, 50));
        }
        observers.forEach(observer => observer.disconnect());
        return [writes, (performance.now() - start) / 1000];
    }""",
        known,
    )
    assert min(writes) >= 2, "they are live"
    assert max(writes) <= 2 * seconds + 1, (writes, seconds)
