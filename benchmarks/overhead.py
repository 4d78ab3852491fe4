"""What a sampling step pays for this pack, in microseconds, on a model that does nothing.

``python3 benchmarks/overhead.py [--blocks 38] [--steps 400] [--repeats 7]`` prints a small table. The model has as many
blocks and attention sites as asked for, each with as many layers and inputs as a block of Flux, and each returns its
input; compiled code is the block itself. What is left is the pack's own work, the inductor backend's before each call
included. ``status`` is the part of it that goes to the record: writing it, and handing it to the server at most twice a
second.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

import torch
from torch import nn

if "onediff_pack" not in sys.modules:
    pack = types.ModuleType("onediff_pack")
    pack.__path__ = [str(ROOT)]
    sys.modules["onediff_pack"] = pack

from onediff_pack.compilers import Host, Session, Settings
from onediff_pack.compilers.backends.inductor.backend import InductorBackend
from onediff_pack.compilers.backends.inductor.registered import compile_with_inductor
from onediff_pack.compilers.choice.prove import Proofs
from onediff_pack.measure.pairs import MOST_PAIRS
from onediff_pack.processors import find_sites, get_processor
from onediff_pack.processors.attention_patch import AttentionPatch
from onediff_pack.proving.proof import Proof
from onediff_pack.status import Hub
from onediff_pack.status.machine import machine

#: Steps until all that is timed, compiled and compared has been.
WARM_UP = 2 * (1 + MOST_PAIRS)


def optimized_attention(x: torch.Tensor) -> torch.Tensor:
    """Named as ComfyUI's, by which sites are found."""
    return x


class Attention(nn.Module):
    def forward(self, x: torch.Tensor, transformer_options: dict | None = None) -> torch.Tensor:
        return optimized_attention(x)


class Layer(nn.Linear):
    """With what ComfyUI's layers have, by which weights that are cast on the fly are known."""

    comfy_cast_weights = False
    weight_function: tuple = ()
    bias_function: tuple = ()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.layers = nn.ModuleList(Layer(1, 1) for _ in range(10))
        self.norms = nn.ModuleList(nn.SiLU() for _ in range(14))

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor,
        vec: torch.Tensor,
        pe: torch.Tensor,
        transformer_options: dict | None = None,
    ) -> torch.Tensor:
        return self.attention(x, transformer_options=transformer_options)


class Nothing(nn.Module):
    """A diffusion model whose blocks return their input."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.context, self.vec, self.pe = torch.zeros(1, 77, 4), torch.zeros(1, 4), torch.zeros(1, 1, 333, 2, 2, 2)

    def forward(self, x: torch.Tensor, transformer_options: dict) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, self.context, vec=self.vec, pe=self.pe, transformer_options=transformer_options)
        return x


class PassThrough(InductorBackend):
    """The inductor backend with the block itself, ``delay`` seconds late, for compiled code."""

    name = package = "nothing"
    delay = 0.0

    def absent(self, device: torch.device) -> None:
        return None

    def compile(self, block: nn.Module, graph: Any, effort: str) -> Callable:
        forward, delay = graph.forward, self.delay

        def run(block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            if delay:
                time.sleep(delay)
            return forward(block, *args, **kwargs)

        graph.runner = run
        return compile_with_inductor(block, options={"graph": graph})


class Executor:
    """ComfyUI's executor of ``apply_model``, and the model behind it."""

    def __init__(self, model: Nothing) -> None:
        self.class_obj = types.SimpleNamespace(diffusion_model=model, get_dtype_inference=lambda: torch.float32)

    def __call__(self, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        return self.class_obj.diffusion_model(x, transformer_options)


class Case:
    """One way to have the pack on the model. ``step()`` is a model call as the sampler makes it."""

    def __init__(self, name: str, blocks: int, hub: Hub, proofs: Proofs) -> None:
        self.name = name
        self.executor = Executor(Nothing(blocks))
        self.options: dict[str, Any] = {"cond_or_uncond": [0, 1], "sample_sigmas": torch.ones(2)}
        self.x, self.t = torch.zeros(1, 256, 4), torch.zeros(1)
        self.session: Session | None = None
        self.wrapper: Callable | None = None
        if name == "patch":
            sites = find_sites(self.executor.class_obj.diffusion_model)
            self.wrapper = AttentionPatch(sites, get_processor("sdpa"), lambda options: None)
        elif name != "none":
            device = torch.device("cpu")
            record = hub.record("workflow", name)
            settings = Settings(backend="nothing", keep_faster=name == "kept uncompiled")
            host = Host(lambda: None, resolve_weights=lambda layers, device, dtype: contextlib.nullcontext([]))
            self.session = Session(settings, record, host, device, proofs=proofs)
            self.wrapper = self.session

    def step(self) -> None:
        arguments = (self.x, self.t, None, None, None, self.options)
        if self.wrapper is None:
            self.executor(*arguments)
        else:
            self.wrapper(self.executor, *arguments)

    def microseconds(self, steps: int) -> float:
        """Of one step, the mean of so many."""
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        return (time.perf_counter() - start) / steps * 1e6


def cases(blocks: int, hub: Hub) -> list[Case]:
    """All ways, warmed up: what is timed, compiled and compared has been."""
    backend = PassThrough()
    proofs = Proofs({backend.name: backend}, known={(backend.name, "cpu"): Proof(True, "does nothing.", 0.0)})
    made = []
    for name in ("none", "patch", "kept uncompiled", "compiled"):
        backend.delay = 1e-3 if name == "kept uncompiled" else 0.0
        case = Case(name, blocks, hub, proofs)
        with torch.inference_mode():
            for _ in range(WARM_UP):
                case.step()
        made.append(case)
    return made


def status_microseconds(session: Session, steps: int) -> float:
    """What one step pays for the record: ``publish`` as it is called after each."""
    start = time.perf_counter()
    for _ in range(steps):
        session.publish(live=True)
    return (time.perf_counter() - start) / steps * 1e6


def measure(blocks: int, steps: int, repeats: int) -> dict[str, float]:
    """Microseconds that a step takes longer than without the pack, medians of ``repeats``. "status" is what the record
    takes of it in the compiled case, "publish" what writing and sending it takes when it is due."""
    hub = Hub(lambda event, data: None)
    ways = cases(blocks, hub)
    seen: dict[str, list[float]] = {}
    with torch.inference_mode():
        for _ in range(repeats):
            base, *others = (case.microseconds(steps) for case in ways)
            for case, taken in zip(ways[1:], others, strict=True):
                seen.setdefault(case.name, []).append(taken - base)
            session = ways[-1].session
            assert session is not None
            seen.setdefault("status", []).append(status_microseconds(session, steps))
            start = time.perf_counter()
            session.publish()
            seen.setdefault("publish", []).append((time.perf_counter() - start) * 1e6)
    assert [case.session.record["state"] for case in ways if case.session] == ["uncompiled", "compiled"]
    return {name: statistics.median(times) for name, times in seen.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=38)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.blocks, options.steps, options.repeats)
    here = machine(torch.device("cpu"), None)
    rows = [
        (f"Patch on {options.blocks} sites", found["patch"]),
        ("Compile, kept uncompiled", found["kept uncompiled"]),
        (f"Compile, {options.blocks} blocks compiled", found["compiled"]),
        ("of that for the record, on average", found["status"]),
        ("the record, when it is written and sent (at most twice a second)", found["publish"]),
    ]
    print(f"{here['device']}, Python {here['python']}, torch {here['torch']}; medians of {options.repeats}")
    print("| a step longer by | µs |\n| --- | ---: |")
    for name, microseconds in rows:
        print(f"| {name} | {microseconds:.{0 if microseconds >= 10 else 1}f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
