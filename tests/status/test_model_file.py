"""Which file a model comes from, and what the nodes before were given, by the prompt."""

from __future__ import annotations

from typing import Any

import pytest
from onediff_pack.status.model_file import model_file, model_nodes
from onediff_pack.status.prompts import NodeClass

PROMPT = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "SD\\\\1.5/base v2.safetensors"}},
    "2": {"class_type": "LoraLoader", "inputs": {"clip": ["1", 1], "model": ["1", 0], "lora_name": "a.safetensors"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a cat.bin"}},
    "9": {"class_type": "OneDiffSpeedReport", "inputs": {"positive": ["3", 0], "model": ["2", 0], "steps": 8}},
}


OUTPUTS = {"CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"), "LoraLoader": ("MODEL", "CLIP")}


def class_of(name: str) -> NodeClass:
    return NodeClass(OUTPUTS.get(name, ("MODEL",) if name == "OneDiffCompile" else ("CONDITIONING",)))


def test_the_file_is_that_of_the_loader_behind_loras_and_other_nodes():
    assert model_file(PROMPT, 9, class_of) == "base v2.safetensors"


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        {},
        {"9": {"class_type": "X", "inputs": None}},
        {"9": {"class_type": "OneDiffSpeedReport", "inputs": {"model": ["9", 0]}}},
        {"9": {"class_type": "OneDiffCompile", "inputs": {"model": ["9", 0]}}},
        {"9": {"class_type": "OneDiffSpeedReport", "inputs": {"model": ["gone", 0]}}},
        PROMPT | {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": 7}}},
    ],
)
def test_where_the_prompt_does_not_tell_there_is_no_name(prompt):
    assert model_file(prompt, "9", class_of) is None


def test_what_the_nodes_before_were_given_is_told_without_links_and_what_cannot_be_compared():
    lora = {"model": ["1", 0], "clip": ["1", 1], "lora_name": "a.safetensors", "strength_model": 0.5, "odd": [1, 2]}
    prompt = PROMPT | {"2": {"class_type": "LoraLoader", "inputs": lora}}
    assert model_nodes(prompt, "9", class_of) == {
        "2": {"lora_name": "a.safetensors", "strength_model": 0.5},
        "1": {"ckpt_name": "SD\\\\1.5/base v2.safetensors"},
    }
    assert model_nodes(prompt, "1", class_of) == {}
    assert model_nodes({"9": {"class_type": "OneDiffCompile", "inputs": {"model": ["9", 0]}}}, "9", class_of) == {}


def test_it_is_never_long():
    chain: dict[str, Any] = {
        str(n): {"class_type": "LoraLoader", "inputs": {"model": [str(n - 1), 0]}} for n in range(1, 100)
    }
    chain["50"]["inputs"] |= {str(n): "x" * 500 for n in range(1000)}
    told = model_nodes(chain, "51", class_of)
    assert (len(told), len(told["50"])) == (16, 16)
