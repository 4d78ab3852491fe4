"""Nodes whose model nothing sampled in a prompt: who says so, and who must not."""

from __future__ import annotations

import time
from typing import Any

import pytest
from onediff_pack.status import Hub
from onediff_pack.status.prompts import EndedPrompt, NodeClass

#: Outputs as the host has them; the packs' are made up.
CLASSES = {
    "CheckpointLoaderSimple": NodeClass(("MODEL", "CLIP", "VAE"), is_hosts=True),
    "OneDiffPatchAttention": NodeClass(("MODEL",), is_ours=True),
    "OneDiffForwardCheck": NodeClass(("MODEL", "STRING", "BOOLEAN"), is_ours=True),
    "OneDiffCompile": NodeClass(("MODEL",), is_ours=True),
    "OneDiffCompileVAE": NodeClass(("VAE",), is_ours=True),
    "OneDiffCompileControlNet": NodeClass(("CONTROL_NET",), is_ours=True),
    "OneDiffCheckpointLoaderSimple": NodeClass(("MODEL", "CLIP", "VAE"), is_ours=True),
    "VAELoader": NodeClass(("VAE",), is_hosts=True),
    "ControlNetLoader": NodeClass(("CONTROL_NET",), is_hosts=True),
    "SetUnionControlNetType": NodeClass(("CONTROL_NET",), is_hosts=True),
    "ControlNetApplyAdvanced": NodeClass(("CONDITIONING", "CONDITIONING"), is_hosts=True),
    "ConditioningCombine": NodeClass(("CONDITIONING",), is_hosts=True),
    "OneDiffSpeedReport": NodeClass(("IMAGE", "STRING"), is_ours=True),
    "ModelMergeSimple": NodeClass(("MODEL",), is_hosts=True),
    "LoraLoaderModelOnly": NodeClass(("MODEL",), is_hosts=True),
    "BasicScheduler": NodeClass(("SIGMAS",), is_hosts=True),
    "BasicGuider": NodeClass(("GUIDER",), is_hosts=True),
    "SamplerCustomAdvanced": NodeClass(("LATENT", "LATENT"), is_hosts=True),
    "KSampler": NodeClass(("LATENT",), is_hosts=True),
    "VAEDecode": NodeClass(("IMAGE",), is_hosts=True),
    "SaveImage": NodeClass((), is_hosts=True),
    "PreviewAny": NodeClass(("STRING",), is_hosts=True),
    "KeepModel": NodeClass(()),
    "FaceDetailer": NodeClass(("IMAGE",)),
}

COMPILED_TOO = {"load": "CheckpointLoaderSimple", "patch": ("OneDiffPatchAttention", "load")}
COMPILED_TOO |= {"compile": ("OneDiffCompile", "patch")}
SAMPLED = {"sample": ("KSampler", "compile"), "decode": ("VAEDecode", "sample"), "save": ("SaveImage", "decode")}
MERGED = {"other": "CheckpointLoaderSimple", "merge": ("ModelMergeSimple", "other", "compile")}
MERGED |= {**SAMPLED, "sample": ("KSampler", "merge")}


class Server:
    """The records of a hub, and prompts that end."""

    def __init__(self):
        self.ended, self.sent = [], []
        self.hub = Hub(
            lambda event, data: self.sent.append((data["node"], data["state"], data["summary"])),
            ended=self._take,
            class_of=lambda name: CLASSES.get(name, NodeClass(("*",))),
        )
        self.records = {}

    def _take(self):
        taken, self.ended = self.ended, []
        return taken

    def execute(self, workflow="a", **states):
        """Our nodes run, in a state each."""
        for node, state in states.items():
            patches = {"sites": [{"site": "x", "processor": "sdpa"}], "foreign": []}
            self.records[node] = self.hub.record(workflow, node)
            self.records[node].update(state=state, patches=patches, speed={"speedup": 1.6})

    def end(self, nodes, cached=(), wanted=("save",), sampled=(), by="KSampler", workflow="a", in_history=False):
        """A prompt ends in which these were sampled: what our nodes say then."""
        began = time.time()
        for node in sampled:
            self.records[node].sampled(by)
        graph = {}
        for node, made in nodes.items():
            kind, *sources = (made,) if isinstance(made, str) else made
            inputs = {f"model{i}": [source, 0] for i, source in enumerate(sources)}
            odd = {"seed": 7, "pair": [1, 2], "nested": [[1], 2], "gone": ["nobody", 0]}
            graph[node] = {"class_type": kind, "inputs": inputs | odd}
        kept = {n: r.data for n, r in self.records.items()} if in_history else {}
        self.ended.append(EndedPrompt(workflow, began, graph, wanted, frozenset(cached), kept))
        self.sent.clear()
        self.hub.settle()
        return {node: summary for node, _, summary in self.sent}


@pytest.fixture
def server():
    server = Server()
    server.execute(patch="patched", compile="compiled")
    return server


NOT_USED = "not used: nothing sampled this model"


@pytest.mark.parametrize("in_history", [False, True])
def test_a_model_that_was_merged_away_says_so_on_every_node_and_only_once(server, in_history):
    said = server.end(COMPILED_TOO | MERGED, in_history=in_history)
    assert said == {"patch": NOT_USED, "compile": NOT_USED}
    compiled = server.records["compile"]
    assert (compiled["state"], compiled["speed"], compiled["unused"]["why"]) == ("uncompiled", None, "not sampled")
    assert server.end(COMPILED_TOO | MERGED) == {}


def test_nodes_that_came_from_the_cache_say_so_too(server):
    """A merge was put between them and the sampler after they had been sampled."""
    assert server.end(COMPILED_TOO | SAMPLED, sampled=["patch", "compile"]) == {}
    said = server.end(COMPILED_TOO | MERGED, cached=["load", "patch", "compile"])
    assert said == {"patch": NOT_USED, "compile": NOT_USED}


GUIDED = COMPILED_TOO | {
    "sigmas": ("BasicScheduler", "compile"),
    "guide": ("BasicGuider", "compile"),
    "sample": ("SamplerCustomAdvanced", "guide", "sigmas"),
    "save": ("SaveImage", "sample"),
}


def test_a_guider_that_got_another_model_leaves_the_scheduler_alone_to_take_this_one(server):
    other = {"other": "CheckpointLoaderSimple", "guide": ("BasicGuider", "other")}
    sampled = ["patch", "compile"]
    assert server.end(GUIDED, sampled=sampled, by="SamplerCustomAdvanced") == {}
    again = GUIDED | other
    assert set(server.end(again, cached=["load", "patch", "compile", "sigmas"])) == set()  # the scheduler did not run
    assert set(server.end(again, cached=["load", "patch", "compile"])) == {"patch", "compile"}


CALM: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sampled": (COMPILED_TOO | SAMPLED, {"sampled": ["patch", "compile"]}),
    "nothing ran, all was cached": (COMPILED_TOO | MERGED, {"cached": [*COMPILED_TOO, *MERGED]}),
    "the sampler was cached": (COMPILED_TOO | SAMPLED, {"cached": [*COMPILED_TOO, "sample"]}),
    "the sampler was cached, another node of a pack ran": (
        COMPILED_TOO | SAMPLED | {"detail": ("FaceDetailer", "compile", "decode"), "save": ("SaveImage", "detail")},
        {"cached": [*COMPILED_TOO, "sample"]},
    ),
    "only checked": (
        COMPILED_TOO | {"check": ("OneDiffForwardCheck", "compile"), "show": ("PreviewAny", "check")},
        {"wanted": ("check",)},
    ),
    "only reported": (COMPILED_TOO | {"report": ("OneDiffSpeedReport", "compile")}, {"wanted": ("report",)}),
    "kept for a later prompt": (
        COMPILED_TOO | {"lora": ("LoraLoaderModelOnly", "compile"), "keep": ("KeepModel", "lora")},
        {"wanted": ("keep",)},
    ),
    "nobody takes it": (COMPILED_TOO, {"wanted": ("compile",)}),
    "a sampler that nothing asks for": (COMPILED_TOO | SAMPLED, {"wanted": ("compile",)}),
}


@pytest.mark.parametrize("case", CALM)
def test_no_false_alarm(server, case):
    server.end(COMPILED_TOO | SAMPLED, sampled=["patch", "compile"])
    for record in server.records.values():  # each case must be calm by itself, not because of what was sampled before
        record.sampled_at = float("-inf")
    nodes, how = CALM[case]
    assert server.end(nodes, **how) == {}


def test_what_was_said_of_a_picture_comes_back_with_it(server):
    """The sampler came from the cache, as it ran before a node was put in and taken out again."""
    cached = {"cached": [*COMPILED_TOO, "sample"]}
    assert server.end(COMPILED_TOO | SAMPLED, sampled=["patch", "compile"]) == {}
    server.end(COMPILED_TOO | MERGED, cached=COMPILED_TOO)
    assert server.records["compile"]["state"] == "uncompiled"
    assert server.end(COMPILED_TOO | MERGED, cached=[*COMPILED_TOO, *MERGED]) == {}, "that picture again"
    assert set(server.end(COMPILED_TOO | SAMPLED, **cached)) == {"patch", "compile"}
    compiled = server.records["compile"]
    assert (compiled["state"], compiled["speed"], compiled["unused"]) == ("compiled", {"speedup": 1.6}, None)
    around = COMPILED_TOO | {"deep": ("DeepCache", "compile")} | SAMPLED | {"sample": ("KSampler", "deep")}
    unused = {"why": "not called", "by": "DeepCache", "where": None}
    for record in server.records.values():
        record.update(unused=unused)
    assert server.end(around, sampled=["patch", "compile"]) == {}
    server.end(COMPILED_TOO | SAMPLED, **cached)
    assert {record["unused"] for record in server.records.values()} == {None}
    server.end(around, cached=[*COMPILED_TOO, "deep", "sample"])
    assert all(record["unused"] == unused for record in server.records.values())


VAE = {"load": "VAELoader", "compile": ("OneDiffCompileVAE", "load"), "sample": "KSampler"}
VAE |= {"decode": ("VAEDecode", "sample", "compile"), "save": ("SaveImage", "decode")}
CONTROL = {"load": "ControlNetLoader", "compile": ("OneDiffCompileControlNet", "load"), "model": "VAELoader"}
CONTROL |= {"kind": ("SetUnionControlNetType", "compile"), "apply": ("ControlNetApplyAdvanced", "kind")}
CONTROL |= {"both": ("ConditioningCombine", "apply"), "sample": ("KSampler", "both"), "save": ("SaveImage", "sample")}
NOT_CALLED = "not used: nothing called it in this run"


@pytest.mark.parametrize("nodes", [VAE, CONTROL], ids=["VAE", "ControlNet"])
def test_a_vae_or_a_control_net_that_nothing_called_says_so(nodes):
    """A strength of 0, for one."""
    server = Server()
    server.execute(compile="idle")
    assert server.end(nodes) == {"compile": NOT_CALLED}
    assert server.records["compile"]["unused"]["why"] == "not used"
    server.execute(compile="idle")
    assert server.end(nodes, sampled=["compile"], by="VAEDecode") == {}
    assert server.end(nodes, cached=[*nodes]) == {}
    assert server.end(nodes, cached=["load", "compile", "kind", "apply", "both", "decode", "sample"]) == {}


def test_the_vae_of_a_loader_that_compiles_its_model_is_not_its_model():
    server = Server()
    server.execute(load="compiled")
    graph: dict[str, Any] = {
        "load": {"class_type": "OneDiffCheckpointLoaderSimple", "inputs": {}},
        "decode": {"class_type": "VAEDecode", "inputs": {"vae": ["load", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0]}},
    }
    server.ended.append(EndedPrompt("a", time.time(), graph, ("save",), frozenset(), {}))
    assert server.hub.snapshot()["a:load"]["state"] == "compiled"


def test_one_of_several_samplers_is_enough(server):
    nodes = COMPILED_TOO | MERGED | {"second": ("KSampler", "compile"), "save": ("SaveImage", "decode", "second")}
    assert server.end(nodes, sampled=["patch", "compile"]) == {}


def test_a_compile_node_that_a_later_one_replaced_is_not_blamed(server):
    server.records["compile"].update(state="idle", backend={"replaced_by": "14"})
    assert set(server.end(COMPILED_TOO | MERGED)) == {"patch"}


def test_a_run_that_goes_on_or_a_node_that_ran_anew_is_left_alone(server):
    server.records["patch"].update(state="failed")
    server.records["compile"].update(state="compiling")
    assert server.end(COMPILED_TOO | MERGED) == {}
    old = dict(server.records)
    server.execute(patch="patched", compile="idle")
    server.records, new = old, server.records
    assert server.end(COMPILED_TOO | MERGED, in_history=True) == {}, "the history has the records of before"
    server.records = new
    assert set(server.end(COMPILED_TOO | MERGED, in_history=True)) == {"patch", "compile"}


def test_another_workflow_that_took_the_nodes_from_the_cache_says_it_itself(server):
    server.end(COMPILED_TOO | MERGED, workflow="b", cached=COMPILED_TOO, in_history=True)
    shown = server.hub.snapshot()
    assert shown["a:compile"]["state"] == "compiled"
    assert (shown["b:compile"]["state"], shown["b:compile"]["summary"]) == ("uncompiled", NOT_USED)


def test_asking_for_the_records_is_enough(server):
    """A page that loads before anybody looked at the queue."""
    graph = {n: {"class_type": k, "inputs": {"m": [s, 0]}} for n, k, s in [("compile", "OneDiffCompile", "patch")]}
    graph |= {"patch": {"class_type": "OneDiffPatchAttention", "inputs": {}}}
    graph |= {"sample": {"class_type": "KSampler", "inputs": {"m": ["compile", 0]}}}
    server.ended.append(EndedPrompt("a", time.time(), graph, ("sample",), frozenset(), {}))
    assert {data["summary"] for data in server.hub.snapshot().values()} == {NOT_USED}


def test_a_chain_of_hundreds_of_nodes_is_settled_at_once(server):
    """On the server's event loop, which answers nobody meanwhile."""
    chain = {"load": "CheckpointLoaderSimple"} | {
        f"patch{i}": ("OneDiffPatchAttention", f"patch{i - 1}" if i else "load") for i in range(300)
    }
    server.execute(**dict.fromkeys((name for name in chain if name != "load"), "patched"))
    start = time.thread_time()
    server.end({**chain, "sample": ("KSampler", "patch299")}, wanted=("sample",), sampled=("patch299",))
    assert time.thread_time() - start < 3


def test_hundreds_beside_thousands_of_others_are_settled_at_once(server):
    names = [f"patch{i}" for i in range(300)]
    server.execute(**dict.fromkeys(names, "patched"))
    others: dict[str, Any] = {f"show{i}": ("PreviewAny", f"show{i - 1}" if i else "load") for i in range(10_000)}
    nodes = {"load": "CheckpointLoaderSimple", **others, **{name: ("OneDiffPatchAttention", "load") for name in names}}
    start = time.thread_time()
    server.end({**nodes, "sample": ("KSampler", "load")}, wanted=(*others, *names, "sample"))
    assert time.thread_time() - start < 2


def test_a_node_with_inputs_that_are_none_hides_nothing(server):
    graph: dict[str, Any] = {"odd": {"class_type": "KSampler", "inputs": [1]}}
    kinds = {"load": ("CheckpointLoaderSimple", {}), "patch": ("OneDiffPatchAttention", {"model": ["load", 0]})}
    kinds["sample"] = ("KSampler", {"model": ["load", 0], "other": ["patch", 0]})
    graph |= {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in kinds.items()}
    server.ended.append(EndedPrompt("a", time.time(), graph, ("sample",), frozenset(), {}))
    assert server.hub.snapshot()["a:patch"]["summary"] == NOT_USED
