"""Writes the weights of an attention processor of your own into a file for the node Load Attention Processor.

    python scripts/processor_file.py weights.safetensors --processor custom/softcap:SoftCap --to softcap.safetensors
    python scripts/processor_file.py PLACE=a.safetensors PLACE=b.safetensors --processor … --to …
    python scripts/processor_file.py --show softcap.safetensors

Run it with ComfyUI's Python. It needs torch and safetensors, and nothing else of this pack. In a script of your own:

    import sys
    sys.path.insert(0, "ComfyUI/custom_nodes/comfyui-onediff/scripts")
    from processor_file import write
    write("softcap.safetensors", "custom/softcap:SoftCap", {"*": module.state_dict()})
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

#: As the node reads them: see processors/loaded/file.py.
FORMAT, PROCESSOR, VERSION = "onediff.format", "onediff.processor", "1"
EVERYWHERE, SEPARATOR = "*", ":"


def write(path: str | Path, processor: str, weights: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Writes a file.

    Args:
        processor: the class, as Patch Attention Processors lists it: ``custom/softcap:SoftCap``.
        weights: a ``state_dict`` for each place, by its path in the model; ``*`` is for all places.

    Raises:
        ValueError: for what the node could not read.
    """
    if not processor.startswith("custom/") or SEPARATOR not in processor:
        raise ValueError(f"the processor is named {processor!r}; name it as the node lists it: custom/<file>:<Class>")
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path} has to end in .safetensors, or the node does not list it")
    tensors = {}
    for place, state in weights.items():
        if not place or SEPARATOR in place or not state:
            raise ValueError(f"{place!r} is no place with weights; {EVERYWHERE} is for all places")
        for name, tensor in state.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
                raise ValueError(f"{name} holds NaN or infinite numbers")
            tensors[f"{place}{SEPARATOR}{name}"] = tensor.detach().cpu().clone().contiguous()
    save_file(tensors, path, {FORMAT: VERSION, PROCESSOR: processor})


def described(path: str | Path) -> list[str]:
    """What a file holds, in lines."""
    with safe_open(path, framework="pt") as file:
        metadata: Mapping[str, str] = file.metadata() or {}
        names = sorted(file.keys())
        shapes = [f"{name}  {file.get_slice(name).get_shape()}" for name in names]
    return [f"processor: {metadata.get(PROCESSOR, 'none named')}", *shapes]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes weights for the node Load Attention Processor.")
    parser.add_argument("weights", nargs="*", help="a state_dict in safetensors, for all places; or PLACE=FILE")
    parser.add_argument("--processor", help="the class: custom/<file>:<Class>")
    parser.add_argument("--to", help="the file to write, in ComfyUI's models/attention_processors")
    parser.add_argument("--show", metavar="FILE", help="say what a file holds")
    asked: Any = parser.parse_args(arguments)
    try:
        if asked.show:
            sys.stdout.write("\n".join(described(asked.show)) + "\n")
            return 0
        if not (asked.weights and asked.processor and asked.to):
            parser.error("weights, --processor and --to are needed")
        weights = {}
        for one in asked.weights:
            place, equals, file = one.rpartition("=")
            weights[place if equals else EVERYWHERE] = load_file(file)
        write(asked.to, asked.processor, weights)
    except (OSError, ValueError, SafetensorError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{asked.to} is written. Press R in the editor, and choose it in Load Attention Processor.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
