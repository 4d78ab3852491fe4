"""Side by side on the real ComfyUI: uncompiled, ComfyUI's own compile node, and this pack.

``python3 benchmarks/side_by_side.py [MODEL ...] [--size 256] [--steps 12] [--out FILE]`` prints one table. For this
pack alone it asserts 0 graph breaks, one graph a kind of block, 0 compiles in a second sampling, and the uncompiled
picture. Models are stand-ins with random weights: ``sd15_small``, ``sd15`` (full size), ``flux_small``.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from scripts import console
from scripts.checkpoints import standin
from scripts.console import say
from scripts.environment import Environment, continue_inside, prepare
from scripts.server import Server, error_of, link_file, link_folder, serve

#: Distinct kinds of blocks (class and weight shapes): so many graphs does this pack need.
KINDS = {"sd15_small": 9, "sd15": 15, "flux_small": 2}

#: ComfyUI's flags, and whether this pack's sdpa is patched in.
SETUPS = {"PyTorch attention": (["--use-pytorch-cross-attention"], False), "default, sdpa patched": ([], True)}

COLUMNS = ("model", "setup", "way", "first run s", "compile s", "graphs", "breaks", "recompiles", "step ms", "ratio")


def prompt(model: str, way: str, patched: bool, size: int, steps: int, seed: int) -> dict[str, Any]:
    """The API prompt of one run. ``way`` is "uncompiled", "TorchCompileModel" or "OneDiff Compile"."""
    flux = model.startswith("flux")
    nodes: dict[str, Any] = {
        "clip": ("CheckpointLoaderSimple", {"ckpt_name": "sd15_small.safetensors" if flux else f"{model}.safetensors"}),
        "text": ("CLIPTextEncode", {"text": "a lighthouse", "clip": ["clip", 1]}),
        "empty": ("CLIPTextEncode", {"text": "", "clip": ["clip", 1]}),
        "latent": ("EmptySD3LatentImage" if flux else "EmptyLatentImage", {"width": size, "height": size}),
    }
    nodes["latent"][1]["batch_size"] = 1
    model_from, vae_from = ["clip", 0], ["clip", 2]
    if flux:
        nodes["unet"] = ("UNETLoader", {"unet_name": f"{model}.safetensors", "weight_dtype": "default"})
        nodes["vae"] = ("VAELoader", {"vae_name": "flux_vae.safetensors"})
        model_from, vae_from = ["unet", 0], ["vae", 0]
    if patched:
        inputs = {"model": model_from, "processor": "sdpa", "sites": "all", "blocks": ""}
        nodes["patch"] = ("OneDiffPatchAttention", inputs)
        model_from = ["patch", 0]
    if way == "TorchCompileModel":
        nodes["compile"] = (way, {"model": model_from, "backend": "inductor"})
        model_from = ["compile", 0]
    elif way == "OneDiff Compile":
        settings = {"backend": "auto", "scope": "blocks", "effort": "fast start", "if_unfit": "run uncompiled"}
        nodes["compile"] = ("OneDiffCompile", {"model": model_from, **settings, "keep_faster": False})
        model_from = ["compile", 0]
    nodes["sampler"] = (
        "KSampler",
        {
            "model": model_from,
            "positive": ["text", 0],
            "negative": ["empty", 0],
            "latent_image": ["latent", 0],
            "seed": seed,
            "steps": steps,
            "cfg": 1.0 if flux else 5.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        },
    )
    nodes["decode"] = ("VAEDecode", {"samples": ["sampler", 0], "vae": vae_from})
    nodes["save"] = ("SaveImage", {"images": ["decode", 0], "filename_prefix": "benchmark"})
    return {
        key: {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}} for key, (kind, inputs) in nodes.items()
    }


class Bench:
    """One model on one server."""

    def __init__(self, server: Server, model: str, setup: str, size: int, steps: int):
        self.server, self.model, self.setup, self.size, self.steps = server, model, setup, size, steps
        self.patched = SETUPS[setup][1]

    def run(self, way: str, seed: int) -> tuple[float, Any, dict[str, Any]]:
        """Seconds, picture, and the history entry of one run."""
        start = time.perf_counter()
        entry = self.server.run(prompt(self.model, way, self.patched, self.size, self.steps, seed), timeout=3600)
        seconds = time.perf_counter() - start
        say(f"  {way}, seed {seed}: {seconds:.1f} s")
        if error_of(entry):
            raise console.CannotContinue(f"{self.model}, {way}: {error_of(entry)}")
        return seconds, pixels(self.server.images(entry)[0]), entry

    def rows(self) -> list[dict[str, Any]]:
        """Each way once to compile and once more; then the ways in turn, for step times side by side."""
        counters, first, pictures, rows = {}, {}, {}, []
        ways = ("uncompiled", "TorchCompileModel", "OneDiff Compile")
        self.run("uncompiled", 0)  # loads the models
        for way in ways:
            self.server.get_json("/benchmark/counters")
            first[way], pictures[way], entry = self.run(way, 1)
            counters[way] = self.server.get_json("/benchmark/counters")
            if way == "OneDiff Compile":
                self.check(entry, pictures)
        again: dict[str, list[float]] = {way: [] for way in ways}
        for seed in (2, 3, 4):
            for way in ways:
                again[way].append(self.run(way, seed)[0] / self.steps * 1000)
                compiled = self.server.get_json("/benchmark/counters")
                if way == "OneDiff Compile":
                    assert compiled["graphs"] == 0, f"{self.model}: a later sampling compiled {compiled}"
        base = statistics.median(again["uncompiled"])
        for way in ways:
            step = statistics.median(again[way])
            figures = (
                first[way],
                counters[way]["seconds"],
                *(counters[way][k] for k in ("graphs", "breaks", "recompiles")),
            )
            values = (self.model, self.setup, way, *figures, step, base / step)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
            say("  " + line(rows[-1]))
        return rows

    def check(self, entry: dict[str, Any], pictures: dict[str, Any]) -> None:
        record = entry["outputs"]["compile"]["onediff"][0]
        result = record["compile"]
        where = f"{self.model}, {self.setup}"
        assert record["state"] == "compiled", f"{where}: {record['summary']}"
        assert not result["graph_breaks"] and not result["recompiles"], f"{where}: {result}"
        assert result["graphs"] == KINDS[self.model], f"{where}: {result['graphs']} graphs"
        assert record["parity"]["passed"], f"{where}: {record['parity']}"
        difference = abs(pictures["OneDiff Compile"] - pictures["uncompiled"]).max()
        assert difference <= 2, f"{where}: the pictures differ by {difference} of 255"


def pixels(picture: bytes) -> Any:
    """A PNG as an array of ints."""
    import numpy
    from PIL import Image

    return numpy.asarray(Image.open(io.BytesIO(picture))).astype(int)


def line(row: dict[str, Any]) -> str:
    """One row of the Markdown table."""
    cells = [f"{v:.2f}" if c == "ratio" else f"{v:.1f}" if isinstance(v, float) else str(v) for c, v in row.items()]
    return f"| {' | '.join(cells)} |"


def serve_for(environment: Environment, model: str, setup: str) -> Any:
    base = environment.cache / "benchmarks" / setup.partition(",")[0].replace(" ", "_")
    needed = {model, "sd15_small", *(("flux_vae",) if model.startswith("flux") else ())}
    folders = {"flux_small": "diffusion_models", "flux_vae": "vae"}
    for name in needed:
        folder = base / "models" / folders.get(name, "checkpoints")
        folder.mkdir(parents=True, exist_ok=True)
        link_file(standin(environment, name), folder / f"{name}.safetensors")
    (base / "custom_nodes").mkdir(exist_ok=True)
    link_folder(ROOT / "benchmarks" / "counters", base / "custom_nodes" / "counters")
    # A compiler cache of its own for each server: every way starts cold.
    variables = {"TORCHINDUCTOR_CACHE_DIR": str(base / f"inductor-{time.time_ns()}")}
    return serve(environment, base, flags=SETUPS[setup][0], variables=variables)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["sd15_small", "flux_small"], metavar="MODEL")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    parser.add_argument("--setup", choices=list(SETUPS), action="append", help="default: all")
    options = parser.parse_args()
    environment = prepare()
    code = continue_inside(environment)
    if code is not None:
        return code
    rows: list[dict[str, Any]] = []
    for model in options.models:
        for setup in options.setup or SETUPS:
            say(f"{model}, {setup} …")
            with serve_for(environment, model, setup) as server:
                rows += Bench(server, model, setup, options.size, options.steps).rows()
    say(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for row in rows:
        say(line(row))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
