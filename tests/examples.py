"""Runs the example workflows on the real ComfyUI, with small stand-in models."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onediff_pack.node_ids import COMPILE, FORWARD_CHECK, PATCH_ATTENTION

from scripts.checkpoints import standin
from scripts.environment import Environment
from scripts.prompt import BYPASSED, load_workflow, swap, to_prompt, with_mode, with_values
from scripts.server import Server, error_of, link_file, serve

ROOT = Path(__file__).resolve().parents[1]
OURS = (PATCH_ATTENTION, FORWARD_CHECK, COMPILE)

#: The example workflows by the names that tests use. Their files' names are what the editor shows.
EXAMPLES = {
    "sd15": "SD 1.5 - patch, check, compile",
    "sdxl": "SDXL - patch and compile",
    "flux": "Flux - patch, check, compile",
    "alone": "SD 1.5 - compile alone",
    "own": "SD 1.5 - a processor of your own",
    "report": "SD 1.5 - speed report",
    "vae": "SD 1.5 - compile the VAE too",
    "control": "SD 1.5 - compile a ControlNet",
    "replaced": "SD 1.5 - an old OneDiff workflow, replaced",
}

#: The example has ``auto``, which goes by the times of this machine; with this the same kernel computes each time.
SDPA = {"processor": "sdpa"}


def compiled_in_this_run(cache: Path) -> Path:
    """Where the servers of one pytest, and of its workers, share what they compile."""
    return cache / "e2e" / f"compiled-{os.environ['ONEDIFF_TEST_RUN']}"


def start(
    environment: Environment,
    name: str,
    *,
    cold: bool = False,
    proven: bool = False,
    variables: dict[str, str] | None = None,
    **options: Any,
) -> Any:
    """A server with the small stand-ins, in a folder of its own.

    It loads what other servers of this run have compiled, and knows what they found to work; one that is `cold` starts
    with nothing compiled and keeps it to itself, and does not know what works, unless it is `proven`.
    """
    base = environment.cache / "e2e" / name
    if cold:
        shutil.rmtree(base / "user" / "__onediff" / "onediff_compile_cache", ignore_errors=True)
    if proven or not cold:
        _know_proofs(base, environment.cache / "e2e")
    variables = {
        "ONEDIFF_COMPILE_CACHE": "" if cold else str(compiled_in_this_run(environment.cache)),
        **(variables or {}),
    }
    for model, folder in (("sd15_small", "checkpoints"), ("flux_small", "diffusion_models"), ("flux_vae", "vae")):
        file = standin(environment, model)
        (base / "models" / folder).mkdir(parents=True, exist_ok=True)
        link_file(file, base / "models" / folder / f"{model}.safetensors")
    return serve(environment, base, variables=variables, **options)


def _know_proofs(base: Path, servers: Path) -> None:
    """Gives a server the proofs, by machine and versions, of what worked in the servers before it."""
    file, working = base / "user" / "__onediff" / "proofs.json", {}
    for known in servers.glob("*/user/__onediff/proofs.json"):
        with contextlib.suppress(OSError, ValueError):  # another server is writing it
            proofs = json.loads(known.read_text(encoding="utf-8"))
            working |= {key: proof for key, proof in proofs.items() if proof["available"]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(working), encoding="utf-8")


@dataclass
class Run:
    """One run of an example workflow: its pictures as arrays (values 0 to 255), and the records by node class."""

    entry: dict[str, Any]
    pictures: list[Any]
    records: dict[str, dict[str, Any]]
    error: str | None


def example(model: str, server: Server, steps: int = 6, **changes: dict[str, Any]) -> dict[str, Any]:
    """An example workflow in editor format, with widget values changed by node class, and small: a step is over in a
    moment, at 64 and 16 tokens of SD 1.5 and 64 of Flux."""
    small: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": "sd15_small.safetensors"},
        "EmptyLatentImage": {"width": 64, "height": 64},
        "KSampler": {"steps": steps},
        "OneDiffSpeedReport": {"steps": steps},
        "UNETLoader": {"unet_name": "flux_small.safetensors"},
        "VAELoader": {"vae_name": "flux_vae.safetensors"},
        "EmptySD3LatentImage": {"width": 128, "height": 128},
        "ControlNetLoader": {"control_net_name": "control_small.safetensors"},
        "LoadImage": {"image": "in.png"},
    }
    workflow = load_workflow(example_file(model))
    types = {node["type"] for node in workflow["nodes"]}
    stand_ins = {name: values for name, values in small.items() if name in types}
    return with_values(workflow, node_classes(server), stand_ins | changes)


def node_classes(server: Server) -> dict[str, Any]:
    """What `/object_info` says of the inputs' names and types, asked once of each server: it takes a second."""
    if server.client not in _CLASSES:
        _CLASSES[server.client] = server.object_info()
    return _CLASSES[server.client]


_CLASSES: dict[str, dict[str, Any]] = {}


def example_file(model: str) -> Path:
    return ROOT / "example_workflows" / f"{EXAMPLES[model]}.json"


def bypass(workflow: dict[str, Any], *types: str) -> dict[str, Any]:
    return with_mode(workflow, set(types), BYPASSED)


def without_ours(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt as it would be had the pack's nodes never been there: links around them, and they are gone."""
    stock = {key: {**node, "inputs": dict(node["inputs"])} for key, node in prompt.items()}
    for key in [key for key, node in stock.items() if node["class_type"] in OURS]:
        origin = stock.pop(key)["inputs"]["model"]
        for node in stock.values():
            node["inputs"] = {n: origin if v == [key, 0] else v for n, v in node["inputs"].items()}
    return stock


def with_lora(prompt: dict[str, Any], name: str, strength: float) -> dict[str, Any]:
    """The prompt with a LoRA between the checkpoint and what takes its model."""
    loader = next(key for key, node in prompt.items() if node["class_type"] == "CheckpointLoaderSimple")
    inputs = {"model": [loader, 0], "lora_name": name, "strength_model": strength}
    changed = {
        key: {**node, "inputs": {n: ["lora", 0] if v == [loader, 0] else v for n, v in node["inputs"].items()}}
        for key, node in prompt.items()
    }
    return {**changed, "lora": {"class_type": "LoraLoaderModelOnly", "inputs": inputs}}


def run(
    server: Server,
    workflow: dict[str, Any],
    stock: bool = False,
    lora: tuple[str, float] | None = None,
    timeout: float = 1800,
) -> Run:
    """Queues a workflow as the editor would, and waits for it.

    ``stock`` takes the pack's nodes out of it, ``lora`` puts a LoRA of that name and strength in.
    """
    import numpy
    from PIL import Image

    prompt = to_prompt(workflow, node_classes(server))
    # Flux's own text encoders are too large for a stand-in; it takes the conditioning of SD 1.5's as well.
    prompt = swap(prompt, "DualCLIPLoader", "CheckpointLoaderSimple", {"ckpt_name": "sd15_small.safetensors"}, {0: 1})
    if stock:
        prompt = without_ours(prompt)
    if lora:
        prompt = with_lora(prompt, *lora)
    entry = server.run(prompt, workflow, timeout)
    outputs = entry["outputs"]
    records = {
        prompt[node]["class_type"]: output["onediff"][0] for node, output in outputs.items() if "onediff" in output
    }
    pictures = [numpy.asarray(Image.open(io.BytesIO(data))).astype(int) for data in server.images(entry)]
    return Run(entry, pictures, records, error_of(entry))
