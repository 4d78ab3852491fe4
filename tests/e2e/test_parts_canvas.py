"""OneDiff Compile VAE and OneDiff Compile ControlNet on the canvas, in both renderers; the first after a real run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from editor import MINUTES, QUEUE, example_workflow, keep_picture, line, load, mostly, open_editor, show, use_renderer
from onediff_pack.node_ids import COMPILE_CONTROL_NET, COMPILE_VAE

# The example with a compiled VAE and without the pack's other nodes' work, and a ControlNet node that nobody uses.
ADD = """() => {
    const find = type => app.graph.nodes.find(node => node.type === type);
    const [loader, decode] = [find("CheckpointLoaderSimple"), find("VAEDecode")];
    for (const type of ["OneDiffPatchAttention", "OneDiffForwardCheck", "OneDiffCompile"]) find(type).mode = 4;
    const [vae, net] = ["OneDiffCompileVAE", "OneDiffCompileControlNet"].map(type => LiteGraph.createNode(type));
    app.graph.add(vae);
    app.graph.add(net);
    vae.pos = [decode.pos[0], decode.pos[1] + 900];
    net.pos = [vae.pos[0] + 380, vae.pos[1]];
    loader.connect(2, vae, 0);
    vae.connect(0, decode, decode.inputs.findIndex(({ name }) => name === "vae"));
    find("KSampler").widgets.find(({ name }) => name === "steps").value = 1;
}"""


@pytest.fixture(scope="module", params=mostly("nodes2"))
def page(request: Any, browser: Any, server: Any) -> Iterator[Any]:
    page = open_editor(browser.new_page(viewport={"width": 1400, "height": 900}), server.url)
    page.set_default_timeout(5 * MINUTES)
    use_renderer(page, request.param)
    page.renderer = request.param
    load(page, example_workflow(page))
    page.evaluate(ADD)
    yield page
    page.close()


def test_the_line_says_what_became_of_it_and_opens_the_report(page: Any) -> None:
    show(page, f"parts-before-{page.renderer}", COMPILE_VAE)
    assert line(page, COMPILE_CONTROL_NET).inner_text().split("\n")[-1] == "not run yet"
    page.evaluate(QUEUE)
    page.wait_for_function(
        """() => { const node = app.graph.nodes.find(({ type }) => type === "OneDiffCompileVAE");
        return /compiled/.test(node.widgets.at(-1).element.title); }"""
    )
    show(page, f"parts-{page.renderer}", COMPILE_VAE)
    said = page.evaluate(
        "() => app.graph.nodes.find(({ type }) => type === 'OneDiffCompileVAE').widgets.at(-1).element.title"
    )
    assert "compiled" in said and "AutoencoderKL" in said
    assert " run takes " in said and "step" not in said, said
    line(page, COMPILE_VAE).click()
    page.wait_for_timeout(1000)
    keep_picture(page, f"parts-report-{page.renderer}")
    page.keyboard.press("Escape")
