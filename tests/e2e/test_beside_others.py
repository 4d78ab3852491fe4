"""As ComfyUI-Manager leaves the pack: a folder of its own in ``custom_nodes``, beside many other packs, in a ComfyUI
whose path has a space and letters that are not ASCII.

Manager clones, runs ``pip install -r requirements.txt`` and then ``install.py``. Here the pack is copied, which comes
to the same files, and nothing is installed: the environment has it all. What pip and uv would do in three ComfyUIs is
asked in ``tests/scripts/test_install.py``: of what is there, nothing would change.

The other packs are stubs. Only their ids are real.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from examples import example, run, start

from scripts.environment import Environment
from scripts.server import PACK, PromptRefused, Server, error_of

ROOT = Path(__file__).parents[2]

#: Two ids of each of twenty packs, as workflow files name them.
OTHERS = {
    "ComfyUI-KJNodes": ("TorchCompileVAE", "TorchCompileControlNet"),
    "ComfyUI-Impact-Pack": ("ImpactWildcardProcessor", "PreviewBridge"),
    "rgthree-comfy": ("Power Lora Loader (rgthree)", "Seed (rgthree)"),
    "ComfyUI-VideoHelperSuite": ("VHS_VideoCombine", "VHS_LoadVideo"),
    "efficiency-nodes-comfyui": ("KSampler (Efficient)", "Efficient Loader"),
    "ComfyUI_IPAdapter_plus": ("IPAdapterUnifiedLoader", "IPAdapterModelLoader"),
    "ComfyUI-GGUF": ("UnetLoaderGGUF", "DualCLIPLoaderGGUF"),
    "ComfyUI-Custom-Scripts": ("ShowText|pysssss", "CheckpointLoader|pysssss"),
    "ComfyUI-AnimateDiff-Evolved": ("ADE_UseEvolvedSampling", "ADE_AnimateDiffLoaderGen1"),
    "ComfyUI-WanVideoWrapper": ("WanVideoModelLoader", "WanVideoSampler"),
    "Comfy-WaveSpeed": ("ApplyFBCacheOnModel", "EnhancedCompileModel"),
    "ComfyUI-Inspire-Pack": ("KSampler //Inspire", "KSamplerAdvanced //Inspire"),
    "ComfyUI_essentials": ("ImageResize+", "GetImageSize+"),
    "ComfyUI-Easy-Use": ("easy fullLoader", "easy preSampling"),
    "ComfyUI_UltimateSDUpscale": ("UltimateSDUpscale", "UltimateSDUpscaleNoUpscale"),
    "ComfyUI_Comfyroll_CustomNodes": ("CR Aspect Ratio", "CR SDXL Aspect Ratio"),
    "ComfyUI-Advanced-ControlNet": ("ACN_AdvancedControlNetApply", "ControlNetLoaderAdvanced"),
    "comfyui_controlnet_aux": ("CannyEdgePreprocessor", "DWPreprocessor"),
    "ComfyUI-TeaCache": ("TeaCache", "CompileModel"),
    "comfyui-inpaint-nodes": ("INPAINT_LoadInpaintModel", "INPAINT_InpaintWithModel"),
}
#: OneDiff's old ids that the stubs have too: of one that ComfyUI loads before this pack, and of one it loads after.
OLD = {"before": ("ModelSpeedup", "VaeSpeedup"), "after": ("OneDiffControlNetLoader", "QuantKSampler")}

STUB = """
def made(node):
    class Stub:
        CATEGORY, RETURN_TYPES, FUNCTION, OUTPUT_NODE = "others", ("STRING",), "say", True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"count": ("INT", {"default": 1, "min": 1, "max": 9})}}

        def say(self, count):
            return {"ui": {"text": [f"{node} {count}"]}, "result": (node,)}

    return Stub


NODE_CLASS_MAPPINGS = {node: made(node) for node in IDS}
"""


@pytest.fixture(scope="module")
def theirs() -> dict[str, tuple[str, ...]]:
    """The ids of each of the two stubs."""
    ids = [id for pair in OTHERS.values() for id in pair]
    return {"before": (*ids[::2], *OLD["before"]), "after": (*ids[1::2], *OLD["after"])}


@pytest.fixture(scope="module")
def server(environment: Environment, theirs: dict[str, tuple[str, ...]]) -> Iterator[Server]:
    name = f"Zoë Müller/ComfyUI {os.environ.get('PYTEST_XDIST_WORKER', '')}".rstrip()
    host = environment.cache / "e2e" / name
    shutil.rmtree(host, ignore_errors=True)
    shutil.copytree(environment.host, host)
    shutil.rmtree(host / "custom_nodes")
    packs = host / "custom_nodes"
    shutil.copytree(ROOT, packs / PACK, ignore=shutil.ignore_patterns(".*", "tests"))
    for place, folder in _around(packs).items():
        (folder / "__init__.py").write_text(f"IDS = {theirs[place]!r}\n{STUB}", encoding="utf-8")
    # What is compiled is kept in ComfyUI's folder: compilers meet its path too. One kind of block is enough for that.
    variables = {"ONEDIFF_COMPILE_SECONDS": "1"}
    options: dict[str, Any] = {"cold": True, "proven": True, "variables": variables, "pack": None}
    with start(replace(environment, host=host), name, **options) as running:
        yield running
    shutil.rmtree(host)


def _around(packs: Path) -> dict[str, Path]:
    """A folder that ComfyUI loads before the pack's, and one after: it takes them as the file system lists them."""
    made = []
    for number in range(100):
        made.append(packs / f"others-{number}")
        made[-1].mkdir()
        listed = os.listdir(packs)
        at = listed.index(PACK)
        if 0 < at < len(listed) - 1:
            kept = {"before": packs / listed[0], "after": packs / listed[-1]}
            for folder in {*made} - {*kept.values()}:
                folder.rmdir()
            return kept
    pytest.skip("this file system lists new folders on one side only")


@pytest.fixture(scope="module")
def info(server: Server) -> dict[str, Any]:
    return server.object_info()


def test_all_of_ours_are_there_and_theirs_are_as_they_made_them(
    info: dict[str, Any], theirs: dict[str, tuple[str, ...]]
) -> None:
    others = {id for ids in theirs.values() for id in ids}
    published = json.loads((ROOT / "tests" / "nodes" / "published.json").read_text(encoding="utf-8"))
    ours = {id for id, node in info.items() if node["python_module"] == f"custom_nodes.{PACK}"}
    assert ours == set(published) - others
    assert len(others) == 44 and set(published) & others == {*OLD["before"], *OLD["after"]}
    for id in others:
        assert info[id]["python_module"].startswith("custom_nodes.others-"), id
        assert info[id]["input"] == {"required": {"count": ["INT", {"default": 1, "min": 1, "max": 9}]}}, id
        assert info[id]["output"] == ["STRING"] and info[id]["category"] == "others", id


def test_theirs_run_and_refuse_what_they_refuse(server: Server, theirs: dict[str, tuple[str, ...]]) -> None:
    others = [id for ids in theirs.values() for id in ids]
    entry = server.run({str(n): {"class_type": id, "inputs": {"count": 3}} for n, id in enumerate(others)})
    assert error_of(entry) is None
    assert {entry["outputs"][str(n)]["text"][0] for n in range(len(others))} == {f"{id} 3" for id in others}
    for place in OLD:
        with pytest.raises(PromptRefused, match="count"):
            server.run({"1": {"class_type": OLD[place][0], "inputs": {"count": 10}}})


def test_an_example_makes_a_picture_and_the_editor_gets_its_files(server: Server) -> None:
    compiles = {"OneDiffCompile": {"backend": "inductor", "keep_faster": False}}
    result = run(server, example("flux", server, steps=2, **compiles))
    assert result.error is None
    assert result.pictures[0].std() > 1
    record = result.records["OneDiffCompile"]
    assert record["state"] == "partial" and record["compile"]["graphs"] > 0, record["summary"]
    assert all("the limit for one picture" in left["reason"] for left in record["compile"]["regions_uncompiled"])
    assert list((server.base / "user" / "__onediff" / "onediff_compile_cache").rglob("*")), "kept in this folder"
    assert b"registerExtension" in server.get(f"/extensions/{PACK}/onediff.js")
    assert server.get(f"/extensions/{PACK}/docs/OneDiffCompile.md")
