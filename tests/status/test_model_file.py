"""Which file a model comes from, by the prompt."""

from __future__ import annotations

import pytest
from onediff_pack.status.model_file import model_file
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
