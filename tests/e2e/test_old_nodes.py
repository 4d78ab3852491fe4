"""Old OneDiff nodes in the real editor, in both renderers: nothing is red, and one click replaces them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from editor import MINUTES, QUEUE, keep_picture, load, mostly, open_editor, use_renderer
from old_workflows import (
    CHECKPOINT,
    SHARED,
    TEXTS,
    equal_to_plain,
    names_larger_classes,
    old_server,
    shared_files,
    small,
    with_small_models,
)

from scripts.environment import Environment
from scripts.server import Server

#: Files that hold nodes of other packs.
OTHERS = {"ipadapter-advanced-api.json"}

FILES = [file.name for file in shared_files()]


def given(name: str) -> str:
    return (SHARED / name).read_text(encoding="utf-8")


EDITORS = [name for name in FILES if "nodes" in json.loads(given(name))]
#: One with a ControlNet and one without; tests/e2e/test_old_workflows.py runs all, as they are sent.
ALWAYS = ("controlnet_onediff-ui.json", "sd15-onediff-ui.json")
RUNS = [
    *(
        pytest.param(name, False, marks=() if name in ALWAYS else pytest.mark.long)
        for name in EDITORS
        if not name.startswith("text-to-video")  # loads an image encoder
    ),
    *(pytest.param(name, True, marks=pytest.mark.long) for name in EDITORS if names_larger_classes(given(name))),
]

# What a person would see as wrong: nodes that are missing or marked, values that are not in their list, dialogs.
RED = """() => ({
    missing: app.graph.nodes.filter(node => node.has_errors || !LiteGraph.registered_node_types[node.type])
        .map(node => node.type),
    values: app.graph.nodes.flatMap(node => (node.widgets ?? [])
        .filter(({ type, value, options }) => type === "combo" && Array.isArray(options?.values) &&
            value !== "" && !options.values.includes(value))
        .map(({ name, value }) => [node.type, name, value])),
    marked: [...document.querySelectorAll('[aria-invalid="true"]')].map(element => element.textContent),
    dialogs: [...document.querySelectorAll('[role="dialog"], .p-dialog')].map(element => element.textContent),
})"""
FINE = {"missing": [], "values": [], "marked": [], "dialogs": []}

# The graph in words: each node with its values, and each link by what it joins.
GRAPH = """() => {
    const own = ({ serialize, type }) => serialize !== false && type !== "button";
    const nodes = app.graph.nodes.map(node =>
        [node.type, node.mode, (node.widgets ?? []).filter(own).map(widget => widget.value)]);
    const name = id => app.graph.getNodeById(id).type;
    const links = [...app.graph.links.values()].map(link => {
        const target = app.graph.getNodeById(link.target_id);
        return `${name(link.origin_id)}.${link.origin_slot} > ${target.type}.${target.inputs[link.target_slot].name}`;
    });
    return { nodes: nodes.sort(), links: links.sort() };
}"""

CAPTURE = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()"
STEPS = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
UNDO = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()"
REDO = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.redo()"
REPLACE = "() => app.extensionManager.command.execute('OneDiff.ReplaceOldNodes')"
FIT = """() => { app.canvas.fitViewToSelectionAnimated?.(); app.canvas.ds.scale = 0.55;
    app.canvas.ds.offset = [120, 120]; app.canvas.setDirty(true, true); }"""


def saved(nodes: dict[str, tuple[str, tuple[int, int], dict[str, str], list[str], list[Any]]]) -> dict[str, Any]:
    """A workflow in the editor's format: name → type, place, inputs ("source.slot"), types of outputs, values."""
    ids = {name: number for number, name in enumerate(nodes, 1)}
    links: list[list[Any]] = []
    made: dict[str, dict[str, Any]] = {}
    for name, (kind, place, _, outputs, values) in nodes.items():
        made[name] = {
            **{"id": ids[name], "type": kind, "pos": list(place), "size": [315, 120], "flags": {}, "mode": 0},
            **{"order": 0, "properties": {"Node name for S&R": kind}, "widgets_values": values, "inputs": []},
            "outputs": [{"name": output, "type": output, "links": []} for output in outputs],
        }
    for name, (_, _, inputs, _, _) in nodes.items():
        for input_name, source in inputs.items():
            origin, slot = source.split(".")
            output = made[origin]["outputs"][int(slot)]
            links.append([len(links) + 1, ids[origin], int(slot), ids[name], len(made[name]["inputs"]), output["type"]])
            output["links"].append(len(links))
            made[name]["inputs"].append({"name": input_name, "type": output["type"], "link": len(links)})
    return {
        **{"id": "6f3c8f4e-0000-4000-8000-000000000001", "version": 0.4, "last_node_id": 20, "last_link_id": 30},
        **{"nodes": list(made.values()), "links": links, "groups": [], "config": {}, "extra": {}},
    }


def workflow() -> dict[str, Any]:
    """A picture through most kinds of old nodes, as files of OneDiff 0.12 and 1.0 have them."""
    torch = [False, None, "inductor", "max-autotune", False, "see the docs"]
    style = [*TEXTS, "Watercolor", False, True, True]
    patched = {"model": "load.0", "latent_image": "latent.0"}
    sampled = {"model": "speedup.0", "positive": "style.0", "negative": "style.1", "latent_image": "latent.0"}
    compared = {"images1": "decode.0", "images2": "decode.0"}
    return saved(
        {
            "load": ("OneDiffCheckpointLoaderSimple", (0, 0), {}, ["MODEL", "CLIP", "VAE"], [CHECKPOINT, "disable"]),
            "latent": ("EmptyLatentImage", (400, 800), {}, ["LATENT"], [64, 64, 1]),
            "batch": ("BatchSizePatcher", (0, 500), patched, ["MODEL"], []),
            "torch": ("OneDiffTorchCompileBooster", (-400, 800), {}, ["TorchCompileBooster"], torch),
            "boost": (
                "OneDiffModelBooster",
                (0, 800),
                {"torchcompile_booster": "torch.0"},
                ["CUSTOM_BOOSTER"],
                [],
            ),
            "speedup": (
                "ModelSpeedup",
                (400, 500),
                {"model": "batch.0", "custom_booster": "boost.0"},
                ["MODEL"],
                [True],
            ),
            "style": (
                "CLIPTextEncodePromptStyle",
                (400, 0),
                {"clip": "load.1"},
                ["CONDITIONING", "CONDITIONING"],
                style,
            ),
            "sample": ("KSampler", (800, 0), sampled, ["LATENT"], [3, "fixed", 2, 4, "euler", "normal", 1]),
            "vae": ("VaeSpeedup", (800, 600), {"vae": "load.2"}, ["VAE"], ["enable"]),
            "decode": ("VAEDecode", (1200, 0), {"samples": "sample.0", "vae": "vae.0"}, ["IMAGE"], []),
            "show": ("PreviewImage", (1200, 300), {"images": "decode.0"}, [], []),
            "compare": ("ShowImageDiff", (1200, 700), compared, [], ["1e-3", "1e-4", "enable", "A"]),
        }
    )


#: What the editor has after all that can be replaced is.
REPLACED: dict[str, list[Any]] = {
    "links": sorted(
        [
            *("CheckpointLoaderSimple.0 > OneDiffCompile.model", "CheckpointLoaderSimple.1 > CLIPTextEncode.clip"),
            *("CheckpointLoaderSimple.1 > CLIPTextEncode.clip", "CheckpointLoaderSimple.2 > OneDiffCompileVAE.vae"),
            *("OneDiffCompile.0 > OneDiffCompile.model", "OneDiffCompile.0 > KSampler.model"),
            *("CLIPTextEncode.0 > KSampler.positive", "CLIPTextEncode.0 > KSampler.negative"),
            *("EmptyLatentImage.0 > KSampler.latent_image", "KSampler.0 > VAEDecode.samples"),
            *("OneDiffCompileVAE.0 > VAEDecode.vae", "VAEDecode.0 > PreviewImage.images"),
            *("VAEDecode.0 > ShowImageDiff.images1", "VAEDecode.0 > ShowImageDiff.images2"),
        ]
    ),
    "nodes": [
        ["CLIPTextEncode", 0, [TEXTS[0]]],
        ["CLIPTextEncode", 0, [TEXTS[1]]],
        ["CheckpointLoaderSimple", 0, [CHECKPOINT]],
        ["EmptyLatentImage", 0, [64, 64, 1]],
        ["KSampler", 0, [3, "fixed", 2, 4, "euler", "normal", 1]],
        ["OneDiffCompile", 0, ["auto", "blocks", "fast start", "run uncompiled", True]],
        ["OneDiffCompile", 0, ["inductor", "blocks", "max speed", "run uncompiled", True]],
        ["OneDiffCompileVAE", 0, ["auto", "run uncompiled"]],
        ["PreviewImage", 0, []],
        ["ShowImageDiff", 0, ["", "enable", "A", "1e-3", "1e-4"]],
        ["VAEDecode", 0, []],
    ],
}


@pytest.fixture(scope="module")
def server(environment: Environment, kept_server: Callable[..., Server]) -> Server:
    return kept_server("old", lambda: old_server(environment))


@pytest.fixture(scope="module", params=mostly("classic"))
def page(request: Any, browser: Any, server: Server) -> Iterator[Any]:
    page = open_editor(browser.new_page(viewport={"width": 1600, "height": 950}), server.url)
    page.set_default_timeout(5 * MINUTES)
    use_renderer(page, request.param)
    page.renderer = request.param
    yield page
    page.close()


def shoot(page: Any, name: str) -> None:
    page.evaluate(FIT)
    page.wait_for_timeout(1000)
    keep_picture(page, f"old-{name}-{page.renderer}")


def test_one_click_replaces_them_and_undo_takes_it_back(page: Any):
    load(page, workflow())
    shoot(page, "before")
    assert page.evaluate(RED) == FINE
    page.evaluate(CAPTURE)  # Nodes 2.0 has given the nodes their sizes meanwhile
    before, steps = page.evaluate(GRAPH), page.evaluate(STEPS)
    assert ["ShowImageDiff", 0, ["", "enable", "A", "1e-3", "1e-4"]] in before["nodes"]
    assert ["VaeSpeedup", 0, [True, "enable"]] in before["nodes"]

    page.evaluate(REPLACE)
    page.wait_for_timeout(2000)
    shoot(page, "after")
    after = page.evaluate(GRAPH)
    assert after["links"] == REPLACED["links"]
    assert sorted(map(json.dumps, after["nodes"])) == sorted(map(json.dumps, REPLACED["nodes"]))
    assert page.evaluate(RED) == FINE
    assert page.evaluate(STEPS) == steps + 1
    told = page.locator(".p-toast-message").all_inner_texts()
    assert any("You can undo this." in text and "Image Distinction Scanner" in text for text in told), told

    badges = page.locator("[data-node-id]", has_text="Load Checkpoint").all_inner_texts()
    assert badges or page.renderer == "classic"
    assert not any("DEPR" in text for text in badges)

    page.evaluate(UNDO)
    page.wait_for_timeout(1500)
    assert page.evaluate(GRAPH) == before
    page.evaluate(REDO)
    page.wait_for_timeout(1500)
    assert page.evaluate(GRAPH)["links"] == REPLACED["links"]
    page.evaluate(QUEUE)


# Where the title of a node is on the page.
TITLE = """type => {
    const node = app.graph.nodes.find(node => node.type === type);
    const { left, top } = app.canvas.canvas.getBoundingClientRect();
    const { scale, offset } = app.canvas.ds;
    return [left + (node.pos[0] + 60 + offset[0]) * scale, top + (node.pos[1] - 15 + offset[1]) * scale];
}"""


def test_the_nodes_menu_replaces_that_node_alone(page: Any):
    load(page, workflow())
    page.evaluate(FIT)
    page.wait_for_timeout(1000)
    page.mouse.click(*page.evaluate(TITLE, "ModelSpeedup"), button="right")
    entry = page.get_by_text("Replace with today's nodes", exact=True)
    entry.wait_for(timeout=10_000)
    keep_picture(page, f"old-menu-{page.renderer}")
    entry.click()
    page.wait_for_timeout(2000)
    types = [one[0] for one in page.evaluate(GRAPH)["nodes"]]
    assert "OneDiffCompile" in types and "OneDiffTorchCompileBooster" not in types
    assert {"OneDiffCheckpointLoaderSimple", "BatchSizePatcher", "CLIPTextEncodePromptStyle"} <= set(types)

    page.mouse.click(*page.evaluate(TITLE, "KSampler"), button="right")
    page.wait_for_timeout(700)
    assert page.get_by_text("Replace with today's nodes", exact=True).count() == 0
    page.keyboard.press("Escape")


def test_what_a_node_stands_for_and_what_it_did_is_on_it(page: Any):
    load(page, workflow())
    page.evaluate(QUEUE)
    page.wait_for_timeout(1500)
    shoot(page, "run")
    said = page.evaluate(
        """() => Object.fromEntries(app.graph.nodes.map(node => [node.type, (node.widgets ?? [])
            .filter(({ name }) => name.startsWith("onediff_")).map(({ element }) => element.title.split("\\n")[0])]))"""
    )
    assert said["VaeSpeedup"][0] == "Works like OneDiff Compile VAE."
    assert "nothing new is compiled" in said["VaeSpeedup"][1]
    assert said["ModelSpeedup"][0] == "Works like OneDiff Compile."
    assert said["OneDiffTorchCompileBooster"][1] == "○ backend: inductor, effort: max speed"
    assert said["ShowImageDiff"][1] == "○ largest difference: 0"
    assert said["KSampler"] == []


# What a node shows below its values: files that the page has loaded, in either renderer.
SHOWN = """() => {
    const node = app.graph.nodes.find(({ type }) => type === "ShowImageDiff");
    const drawn = [...(node.imgs ?? []), ...document.querySelectorAll(`[data-node-id="${node.id}"] img`)];
    return [...new Set(drawn.filter(({ naturalWidth }) => naturalWidth > 0)
        .map(({ src }) => new URL(src).searchParams.get("filename")))];
}"""


def test_pictures_that_end_the_run_as_different_are_shown(page: Any):
    given = {"images1": "black.0", "images2": "white.0"}
    load(
        page,
        saved(
            {
                "black": ("EmptyImage", (0, 0), {}, ["IMAGE"], [64, 64, 1, 0]),
                "white": ("EmptyImage", (0, 400), {}, ["IMAGE"], [64, 64, 1, 16777215]),
                "compare": ("ShowImageDiff", (500, 0), given, [], ["0.9", "enable", "A"]),
            }
        ),
    )
    page.evaluate(FIT)
    page.evaluate("() => void app.queuePrompt(0)")
    page.wait_for_function("() => app.extensionManager && document.body.innerText.includes('SSIM')", timeout=60_000)
    page.wait_for_timeout(1500)
    keep_picture(page, f"old-different-{page.renderer}")
    assert page.evaluate(SHOWN)
    page.keyboard.press("Escape")


@pytest.mark.skipif(not SHARED.is_dir(), reason="OneDiff's own workflow files are not beside the repository")
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_onediffs_users_were_given_opens_with_nothing_red(page: Any, name: str):
    if page.renderer != "classic" and "ONEDIFF_TEST_ALL" not in os.environ:
        pytest.skip("once more in the other renderer: scripts/test.py --all runs it")
    content = with_small_models((SHARED / name).read_text(encoding="utf-8"))
    if "nodes" in content:
        load(page, content)
    else:
        page.evaluate("([prompt, name]) => app.loadApiJson(prompt, name)", [content, name])
        page.wait_for_timeout(1500)
    red = page.evaluate(RED)
    if name in OTHERS:
        types = {one[0] for one in page.evaluate(GRAPH)["nodes"]}
        assert "OneDiffCheckpointLoaderSimple" in types
        assert not any("OneDiff" in kind for kind in red["missing"])
        page.keyboard.press("Escape")
        return
    shoot(page, name.removesuffix(".json"))
    assert red == FINE


@pytest.mark.skipif(not SHARED.is_dir(), reason="OneDiff's own workflow files are not beside the repository")
@pytest.mark.parametrize(
    ("name", "own_class"), RUNS, ids=lambda value: "own class" if value is True else value or "small"
)
def test_a_file_in_the_editors_format_runs_to_the_plain_picture(page: Any, server: Server, name: str, own_class: bool):
    """SD 1.5's small checkpoint stands in for all, and at length those of SDXL and SVD where the file names them."""
    if page.renderer != "classic":
        pytest.skip("what is queued does not depend on the renderer")
    load(page, with_small_models(given(name), own_class))
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    equal_to_plain(server, small(prompt))
