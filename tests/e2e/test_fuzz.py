"""Any values at all in the nodes' inputs, sent to the real server over HTTP: each prompt is refused before it runs, or
runs, or ends with an error of ours that says what to do; and the queue goes on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from old_workflows import make_files, node, old_server, picture, plain

from scripts.environment import Environment
from scripts.server import PromptRefused, Server

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

pytestmark = pytest.mark.long

#: How many prompts; more by hand.
PROMPTS = int(os.environ.get("ONEDIFF_FUZZ", "60"))

#: What gives a link of a type, in the plain prompt.
GIVERS: dict[str, list[Any]] = {
    **{"MODEL": ["ckpt", 0], "CLIP": ["ckpt", 1], "VAE": ["ckpt", 2], "LATENT": ["latent", 0], "IMAGE": ["hint", 0]},
    **{"CONDITIONING": ["pos", 0], "CONTROL_NET": ["net", 0], "CLIP_VISION": ["pos", 0]},
}

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=40),
    st.sampled_from(
        ["a" * 5000, "\x00", "../../etc/passwd", "[" * 3000, "\ud800", "custom/no such:File", "名前", "1e309"]
    ),
    st.recursive(st.one_of(st.none(), st.integers(), st.text(max_size=8)), lambda inner: st.lists(inner, max_size=3)),
    st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=8)), max_size=3),
)


def values(kind: Any, options: dict[str, Any]) -> Any:
    """Strategy: values of an input as the node's definition gives it, and any others."""
    if isinstance(kind, list) or kind == "COMBO":
        listed = kind if isinstance(kind, list) else options.get("options") or []
        return st.one_of(st.sampled_from(listed), ODD) if listed else ODD
    right = {"INT": st.integers(-3, 10_000), "FLOAT": st.floats(-3, 3), "BOOLEAN": st.booleans()}
    if kind in GIVERS:
        return st.one_of(st.just(GIVERS[kind]), st.just(GIVERS[kind]), st.sampled_from(list(GIVERS.values())), ODD)
    return st.one_of(right.get(str(kind), st.text(max_size=20)), ODD)


@st.composite
def prompts(draw: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """One of our nodes behind the plain prompt's loaders, and one of the host's that takes anything."""
    name = draw(st.sampled_from(sorted(definitions)))
    inputs: dict[str, Any] = {}
    for group in definitions[name]["input"].values():
        for key, given in group.items():
            kind, options = given[0], given[1] if len(given) > 1 else {}
            if isinstance(group, dict) and draw(st.integers(0, 5)):
                inputs[key] = draw(values(kind, options or {}))
    inputs |= draw(st.dictionaries(st.text(min_size=1, max_size=8), ODD, max_size=1))
    return {"fuzz": node(name, **inputs), "show": node("PreviewAny", source=["fuzz", 0])}


@pytest.fixture(scope="module")
def server(environment: Environment) -> Iterator[Server]:
    with old_server(environment) as running:
        yield running


def raised(entry: dict[str, Any]) -> dict[str, Any] | None:
    """What ended a run: node, class and text."""
    return next((data for kind, data in entry["status"]["messages"] if kind == "execution_error"), None)


def test_whatever_stands_in_an_input_the_queue_goes_on_and_errors_say_what_to_do(server: Server) -> None:
    ours = {
        name: info
        for name, info in server.object_info().items()
        if str(info.get("python_module", "")).startswith("custom_nodes.comfyui-onediff")
        and not {"KSampler", "SpeedReport"} & set(re.findall(r"KSampler|SpeedReport", name))
    }
    assert len(ours) > 30
    whole = plain(control=True)
    parts = {name: whole[name] for name in ("ckpt", "pos", "neg", "latent", "net", "hint")}
    ended = {"refused": 0, "done": 0, "an error": 0}

    @hypothesis.settings(
        max_examples=PROMPTS,
        deadline=None,
        database=None,
        derandomize="ONEDIFF_FUZZ" not in os.environ,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(prompts(ours))
    def one(prompt: dict[str, Any]) -> None:
        try:
            entry = server.run({**parts, **prompt}, timeout=120)
        except PromptRefused as refused:
            ended["refused"] += 1
            assert refused.answer.get("error") or refused.answer.get("node_errors")
            return
        error = raised(entry)
        ended["an error" if error else "done"] += 1
        if error and error["node_type"] in ours:
            assert "(node fuzz)" in str(error["exception_message"]), error
        for output in entry["outputs"].values():
            for record in output.get("onediff", ()):
                assert record["summary"] and len(str(record)) < 60_000

    make_files(server.base)
    one()
    assert min(ended.values()) > 0, f"nothing of one kind was tried: {ended}"
    assert picture(server, plain())[0].any(), "the queue goes on"
