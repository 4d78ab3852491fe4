"""Prompts through the host's own executor, cache and queue: when a patch and compiled blocks take no part in one."""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from onediff_pack.proving.proof import Proof
from passthrough import without_inductor
from sessions import known

pytestmark = pytest.mark.usefixtures("host")

#: The seed of a model that gives NaN.
BROKEN = 13
BLACK = "black picture: NaN or Inf"
NOT_USED = "not used: nothing sampled this model"


class SmallModel:
    """A loader of a model that is made in memory."""

    RETURN_TYPES, FUNCTION = ("MODEL",), "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {})}}

    def load(self, seed):
        import models

        patcher = models.unet_patcher(seed)
        if seed == BROKEN:
            with torch.inference_mode():
                patcher.model.diffusion_model.out[0].weight.fill_(math.nan)
        return (patcher,)


class Prompt:
    """Stands in for a text encoder and an empty picture."""

    RETURN_TYPES, FUNCTION = ("CONDITIONING", "LATENT"), "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        return [[torch.ones(1, 7, 48), {}]], {"samples": torch.zeros(1, 4, 8, 8)}


class Show:
    """An output node, as one that saves pictures."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "show", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "name": ("STRING", {})}}

    def show(self, latent, name):
        return {}


class DeepCache:
    """Calls the model's parts itself, as the packs of that name do."""

    RETURN_TYPES, FUNCTION = ("MODEL",), "apply"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def apply(self, model):
        clone = model.clone()

        def apply_model(model_function, arguments):
            context, options = (arguments["c"][name] for name in ("c_crossattn", "transformer_options"))
            unet = clone.model.diffusion_model
            return unet(arguments["input"], arguments["timestep"], context=context, transformer_options=options)

        clone.set_model_unet_function_wrapper(apply_model)
        return (clone,)


class InThread:
    """Calls the model in a thread of its own, as packs do that share its work among devices."""

    RETURN_TYPES, FUNCTION = ("MODEL",), "apply"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def apply(self, model):
        def diffusion_model(executor, *args, **kwargs):
            with ThreadPoolExecutor(1) as apart:
                return apart.submit(torch.inference_mode()(executor), *args, **kwargs).result()

        clone = model.clone()
        clone.add_wrapper_with_key("diffusion_model", "apart", diffusion_model)
        return (clone,)


class Server:
    """The host's executor and queue, without its routes and sockets."""

    client_id, last_node_id, last_prompt_id, sockets_metadata = "page", None, None, {}

    def __init__(self, monkeypatch):
        import comfy_extras.nodes_model_merging as merging
        import execution
        import folder_paths
        import server
        from onediff_pack.host import server as host
        from onediff_pack.host.prompt_ends import PromptEnds, class_of
        from onediff_pack.nodes import compile as compile_node
        from onediff_pack.nodes import patch_attention
        from onediff_pack.status import Hub

        nodes: Any = importlib.import_module("nodes")  # ComfyUI's

        self.loop = asyncio.new_event_loop()  # not running: the test looks itself
        self.prompt_queue = execution.PromptQueue(self)
        self.executor = execution.PromptExecutor(
            self, execution.CacheType.CLASSIC, {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        )
        self.number = 0
        monkeypatch.setattr(server.PromptServer, "instance", self, raising=False)
        ours = {
            "OneDiffPatchAttention": patch_attention.OneDiffPatchAttention,
            "OneDiffCompile": compile_node.OneDiffCompile,
            "ModelMergeSimple": merging.ModelMergeSimple,
            "SmallModel": SmallModel,
            "Prompt": Prompt,
            "Show": Show,
            "DeepCache": DeepCache,
            "InThread": InThread,
        }
        for name, cls in ours.items():
            monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, cls)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "attention_processors", ([], {".py"}))
        monkeypatch.setattr(compile_node, "PROOFS", known(inductor=Proof(True, "stands in.", 0.0)))
        self.hub = Hub(lambda *_: None, host.running_workflow, class_of=class_of)
        self.hub.ended = PromptEnds(self, self.hub.settle, host._workflow_of).new
        monkeypatch.setattr(host, "HUB", self.hub)

    def send_sync(self, *args: Any) -> None:
        pass

    def queue_updated(self) -> None:
        pass

    def run(self, prompt: dict[str, Any]) -> dict[str, str]:
        """Runs a prompt as the host's worker does: what the records say then, by node."""
        from execution import PromptQueue

        self.number += 1
        name = f"prompt {self.number}"
        extra = {"extra_pnginfo": {"workflow": {"id": "w"}}, "client_id": "page"}
        prompt = json.loads(json.dumps(prompt))
        self.prompt_queue.put((self.number, name, prompt, extra, ["show"], {}))
        (_, _, prompt, extra, wanted, _), item = self.prompt_queue.get(timeout=1)
        with ThreadPoolExecutor(1) as worker:  # as the host's; the browser tests leave a running event loop in this one
            worker.submit(self.executor.execute, prompt, name, extra, wanted).result()
        done = self.executor
        status = PromptQueue.ExecutionStatus("success", done.success, done.status_messages)
        self.prompt_queue.task_done(item, done.history_result, status, lambda item: item[:5])
        assert "execution_success" in dict(done.status_messages), done.status_messages
        return {data["node"]: data["summary"] for data in self.hub.snapshot().values()}


PATCHED = {
    "load": {"class_type": "SmallModel", "inputs": {"seed": 0}},
    "patch": {
        "class_type": "OneDiffPatchAttention",
        "inputs": {"model": ["load", 0], "processor": "sdpa", "sites": "all", "blocks": ""},
    },
    "prompt": {"class_type": "Prompt", "inputs": {}},
    "show": {"class_type": "Show", "inputs": {"latent": ["sample", 0], "name": "picture"}},
}
COMPILE = {
    "model": ["patch", 0],
    "backend": "auto",
    "scope": "blocks",
    "effort": "fast start",
    "if_unfit": "run uncompiled",
    "keep_faster": True,
}
BEFORE_PATCH: dict[str, Any] = {
    "class_type": "ModelMergeSimple",
    "inputs": {"model1": ["load", 0], "model2": ["patch", 0], "ratio": 1.0},
}


def sampling(model: str, seed: int = 1, **settings: Any) -> dict[str, Any]:
    settings = {"steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0} | settings
    prompts = {"positive": ["prompt", 0], "negative": ["prompt", 0], "latent_image": ["prompt", 1]}
    return {"class_type": "KSampler", "inputs": {"model": [model, 0], "seed": seed, **prompts, **settings}}


@pytest.fixture
def captured():
    """Blocks run what Dynamo captured of them: compiled code is not the question."""
    with without_inductor():
        yield


@pytest.fixture
def server(monkeypatch):
    if sys.platform == "win32":
        monkeypatch.setattr(asyncio, "set_event_loop_policy", lambda policy: None)
    server = Server(monkeypatch)
    yield server
    server.loop.close()


def test_what_each_prompt_says(server):
    plain = {**PATCHED, "sample": sampling("patch")}
    good = server.run(plain)["patch"]
    assert good.startswith("patched 14 sites")
    merged = {**PATCHED, "merge": BEFORE_PATCH, "sample": sampling("merge")}
    assert server.run(merged)["patch"] == NOT_USED, "all but the merge and the sampler came from the cache"
    renamed = {**merged, "show": {"class_type": "Show", "inputs": {"latent": ["sample", 0], "name": "again"}}}
    assert server.run(renamed)["patch"] == NOT_USED, "the same picture"
    assert server.run(plain)["patch"] == good
    around = {
        **PATCHED,
        "deep": {"class_type": "DeepCache", "inputs": {"model": ["patch", 0]}},
        "sample": sampling("deep"),
    }
    assert server.run(around)["patch"] == "no effect: “DeepCache” runs in the model's place"
    assert server.run({**plain, "sample": sampling("patch", seed=2)})["patch"] == good
    assert server.run({**plain, "sample": sampling("patch", seed=2), "show": renamed["show"]})["patch"] == good


def test_a_model_that_is_called_in_another_thread_has_an_effect_there(server):
    apart = {"class_type": "InThread", "inputs": {"model": ["patch", 0]}}
    said = server.run({**PATCHED, "apart": apart, "sample": sampling("apart")})["patch"]
    assert said == server.run({**PATCHED, "sample": sampling("patch")})["patch"]
    assert said.startswith("patched 14 sites")


def test_a_node_that_never_was_sampled_says_so_too(server):
    nodes = {**PATCHED, "compile": {"class_type": "OneDiffCompile", "inputs": COMPILE}}
    merge = {**BEFORE_PATCH, "inputs": {**BEFORE_PATCH["inputs"], "model2": ["compile", 0]}}
    said = server.run({**nodes, "merge": merge, "sample": sampling("merge")})
    assert said == {"patch": NOT_USED, "compile": NOT_USED}
    assert server.run({**nodes, "merge": merge, "sample": sampling("merge", seed=3)}) == said


def test_one_line_for_two_samplings_of_a_prompt_speaks_for_both(server):
    """As where a picture is made in one way and made larger in another."""
    larger = sampling("patch")
    larger["inputs"]["latent_image"] = ["first", 0]
    nodes = {
        **PATCHED,
        "deep": {"class_type": "DeepCache", "inputs": {"model": ["patch", 0]}},
        "first": sampling("deep"),
        "sample": larger,
    }
    said = server.run(nodes)["patch"]
    assert said.endswith(" · took part in 2 of 4 steps (the others: “DeepCache”)")
    again = {**nodes, "sample": {**larger, "inputs": {**larger["inputs"], "seed": 2}}}
    assert "took part" not in server.run(again)["patch"], "only the second was sampled anew"


def test_a_black_picture_is_said_by_each_node_until_there_is_one_with_numbers(server, captured):
    compile_ = {"class_type": "OneDiffCompile", "inputs": {**COMPILE, "keep_faster": False}}
    nodes = {**PATCHED, "compile": compile_, "sample": sampling("compile")}
    broken = {**nodes, "load": {"class_type": "SmallModel", "inputs": {"seed": BROKEN}}}
    said = server.run(broken)
    assert said["patch"].startswith(f"{BLACK} · patched 14 sites")
    assert said["compile"].startswith(BLACK)
    (compiled,) = [data for data in server.hub.snapshot().values() if data["node"] == "compile"]
    assert (compiled["not_finite"], compiled["parity"]) == (True, None), "NaN beside NaN compares nothing"
    assert server.run(nodes)["patch"].startswith("patched 14 sites")
    assert server.run(broken)["patch"].startswith(BLACK)
    assert not any(BLACK in line for line in server.run(nodes).values())
