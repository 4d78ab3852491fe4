"""What each setting that ``effort`` could make gains on this machine, block by block.

``python3 benchmarks/effort.py [--only BLOCK] [--setting SETTING] [--rounds 9]`` compiles a few of ComfyUI's own blocks
with each setting and prints how many times as fast as uncompiled they run, both by turns, and the seconds that
compiling took. What came of it is in ``compilers/backends/inductor/effort.py``. ``--host FOLDER`` uses this Python and
that ComfyUI as they are, without network.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from scripts import console
from scripts.console import say
from scripts.environment import continue_inside, prepare

Make = Callable[[], tuple[Any, dict[str, Any]]]


@dataclass(frozen=True)
class Setting:
    """Settings of ``torch._inductor.config``, and what is done to a block before it is compiled."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    change: Callable[[Any], Any] = lambda block: block
    channels_last: bool = False
    concerns: Callable[[Any], bool] = lambda block: True


def has_convolutions(block: Any) -> bool:
    return any(getattr(module, "weight", None) is not None and module.weight.ndim == 4 for module in block.modules())


def has_self_attention(block: Any) -> bool:
    return hasattr(block, "attn1")


def fuse_qkv(block: Any) -> Any:
    """One matrix for the three projections of self-attention, as diffusers' ``fuse_qkv_projections``."""
    import torch
    from torch import nn

    class Fused(nn.Module):
        def __init__(self, attention: Any):
            super().__init__()
            self.weight = nn.Parameter(torch.cat([getattr(attention, f"to_{name}").weight for name in "qkv"]), False)
            self.heads, self.to_out = attention.heads, attention.to_out

        def forward(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            from comfy.ldm.modules.attention import optimized_attention

            q, k, v = nn.functional.linear(x, self.weight).chunk(3, dim=-1)
            return self.to_out(optimized_attention(q, k, v, self.heads))

    block.attn1 = Fused(block.attn1)
    return block


SETTINGS = (
    Setting("Inductor's own"),
    Setting("layout_optimization off", {"layout_optimization": False}),
    Setting("channels-last weights and inputs", channels_last=True, concerns=has_convolutions),
    Setting("fused QKV", {"layout_optimization": False}, fuse_qkv, concerns=has_self_attention),
    Setting("max_autotune", {"layout_optimization": False, "max_autotune": True}),
    Setting("coordinate_descent_tuning", {"layout_optimization": False, "coordinate_descent_tuning": True}),
    Setting("freezing (weights twice)", {"layout_optimization": False, "freezing": True}),
)


def residual(width: int, size: int) -> Make:
    """Two of SD 1.5's pictures in a residual block: (2, width, size, size)."""

    def make() -> tuple[Any, dict[str, Any]]:
        import comfy.ops
        import torch
        from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock

        block = ResBlock(width, 1280, 0.0, operations=comfy.ops.disable_weight_init)
        return block, {"x": torch.randn(2, width, size, size), "emb": torch.randn(2, 1280)}

    return make


def transformer(width: int, tokens: int, heads: int = 8, context: int = 768) -> Make:
    """Two pictures in a UNet's transformer block: (2, tokens, width)."""

    def make() -> tuple[Any, dict[str, Any]]:
        import comfy.ops
        import torch
        from comfy.ldm.modules.attention import BasicTransformerBlock

        operations = comfy.ops.disable_weight_init
        block = BasicTransformerBlock(width, heads, width // heads, context_dim=context, operations=operations)
        return block, {"x": torch.randn(2, tokens, width), "context": torch.randn(2, 77, context)}

    return make


def double_stream(width: int, tokens: int) -> Make:
    """A picture in a double block of Flux: (1, tokens, width) beside 256 tokens of text."""

    def make() -> tuple[Any, dict[str, Any]]:
        import comfy.ops
        import torch
        from comfy.ldm.flux.layers import DoubleStreamBlock

        block = DoubleStreamBlock(width, width // 128, 4.0, qkv_bias=True, operations=comfy.ops.disable_weight_init)
        tables = torch.randn(1, 1, tokens + 256, 64, 2, 2)
        parts = {"img": torch.randn(1, tokens, width), "txt": torch.randn(1, 256, width), "vec": torch.randn(1, width)}
        return block, {**parts, "pe": tables}

    return make


def single_stream(width: int, tokens: int) -> Make:
    """A picture and 256 tokens of text in a single block of Flux: (1, tokens + 256, width)."""

    def make() -> tuple[Any, dict[str, Any]]:
        import comfy.ops
        import torch
        from comfy.ldm.flux.layers import SingleStreamBlock

        block = SingleStreamBlock(width, width // 128, 4.0, operations=comfy.ops.disable_weight_init)
        tables = torch.randn(1, 1, tokens + 256, 64, 2, 2)
        return block, {"x": torch.randn(1, tokens + 256, width), "vec": torch.randn(1, width), "pe": tables}

    return make


CPU: dict[str, Make] = {
    "SD 1.5, residual, 320 at 32×32": residual(320, 32),
    "SD 1.5, residual, 640 at 16×16": residual(640, 16),
    "SD 1.5, residual, 1280 at 8×8": residual(1280, 8),
    "SD 1.5, transformer, 320, 1024 tokens": transformer(320, 1024),
    "SD 1.5, transformer, 640, 256 tokens": transformer(640, 256),
    "Flux, double, 1024, 256 tokens": double_stream(1024, 256),
}
CUDA: dict[str, Make] = {
    "SDXL, residual, 320 at 128×128": residual(320, 128),
    "SDXL, residual, 1280 at 32×32": residual(1280, 32),
    "SD 1.5, transformer, 320, 4096 tokens": transformer(320, 4096),
    "SDXL, transformer, 1280, 1024 tokens": transformer(1280, 1024, heads=20, context=2048),
    "Flux, double, 3072, 4096 tokens": double_stream(3072, 4096),
    "Flux, single, 3072, 4096 tokens": single_stream(3072, 4096),
}


@dataclass
class Compiled:
    """A block with one setting: how many times as fast as uncompiled it ran, one ``ratio`` a pair of runs, the
    ``seconds`` that compiling took, and the relative ``difference`` of its result."""

    setting: str
    ratios: list[float]
    seconds: float
    difference: float


def measured(setting: Setting, block: Any, inputs: dict[str, Any], device: Any, rounds: int) -> Compiled:
    """Compiles a copy of the block as the pack does, one graph under a code object of its own and sizes dynamic, and
    times it by turns with the uncompiled one."""
    import torch
    from onediff_pack.compilers.backends.deployable import entry_of
    from onediff_pack.compilers.backends.dynamic_sizes import mark_sizes
    from onediff_pack.compilers.blocks.parity import clone_inputs, compare
    from onediff_pack.compilers.blocks.shared_graph import SharedGraph
    from onediff_pack.compilers.measuring.class_gain import time_pairs
    from onediff_pack.measure.pairs import ratios
    from onediff_pack.measure.stopwatch import Stopwatch
    from torch._inductor.utils import fresh_cache

    changed, own = setting.change(copy.deepcopy(block)), inputs
    if setting.channels_last:
        changed = changed.to(memory_format=torch.channels_last)
        own = {n: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for n, t in inputs.items()}
    entry = entry_of(SharedGraph(type(changed).forward, setting.name))
    compiled = torch.compile(entry, fullgraph=True, options=dict(setting.config))

    def run(both: Any) -> Any:
        mark_sizes(list(both[0][0].values()), None)
        return compiled(changed, (), both[0][0])

    def uncompiled(both: Any) -> Any:
        return block(**both[0][1])

    both = ((own, inputs), {})
    with fresh_cache():
        result, milliseconds = Stopwatch(device).time(lambda: run(clone_inputs(both)))
    pairs = time_pairs(run, uncompiled, both, device, most=rounds, seconds=math.inf)
    difference = compare(result, uncompiled(clone_inputs(both))).relative
    return Compiled(setting.name, ratios(pairs), milliseconds / 1000, difference)


def measure(make: Make, settings: Sequence[Setting], rounds: int, device: str) -> list[Compiled]:
    """The settings that concern one block."""
    import torch

    torch.manual_seed(0)
    block, inputs = make()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
        parameter.requires_grad_(False)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    block = block.eval().to(device, dtype)
    inputs = {name: tensor.to(device, tensor.dtype if name == "pe" else dtype) for name, tensor in inputs.items()}
    found = []
    with torch.inference_mode():
        measured(Setting("warm-up"), block, inputs, torch.device(device), rounds=1)
        for setting in settings:
            if not setting.concerns(block):
                continue
            try:
                found.append(measured(setting, block, inputs, torch.device(device), rounds))
            except Exception as error:  # a setting that this machine cannot compile is a result too
                say(f"  {setting.name}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
    return found


def enter(host: Path) -> str:
    """Makes ComfyUI's classes and this pack importable. Returns the type of device."""
    import torch

    pack = types.ModuleType("onediff_pack")
    pack.__path__ = [str(ROOT)]
    sys.modules["onediff_pack"] = pack
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # The host reads its command line when it is imported; its folder takes the place of this one: both have nodes.
    sys.path[0], sys.argv[1:] = str(host), ["--use-pytorch-cross-attention", *(["--cpu"] if device == "cpu" else [])]
    import comfy.options

    comfy.options.enable_args_parsing()
    return device


def named(name: str, asked: Sequence[str] | None) -> bool:
    """Whether a name has some of the words asked for in it, or none were."""
    return not asked or any(words in name for words in asked)


def table(found: dict[str, list[Compiled]]) -> list[str]:
    """Lines of Markdown, one row a block and setting."""
    lines = ["| block | setting | ratio (range) | compiling s | difference |", "| --- | --- | ---: | ---: | ---: |"]
    for label, ways in found.items():
        for way in ways:
            ratio = f"{statistics.median(way.ratios):.2f} ({min(way.ratios):.2f}-{max(way.ratios):.2f})"
            lines.append(f"| {label} | {way.setting} | {ratio} | {way.seconds:.1f} | {way.difference:.0e} |")
            label = ""
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="BLOCK", help="blocks with these words in their name")
    parser.add_argument("--setting", action="append", help="settings with these words in their name")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--host", type=Path, help="a ComfyUI folder to use with this Python; installs nothing")
    options = parser.parse_args(arguments)
    host = options.host
    if host is None:
        environment = prepare()
        code = continue_inside(environment)
        if code is not None:
            return code
        host = environment.host
    device = enter(host.resolve())
    blocks = CPU if device == "cpu" else CUDA
    settings = [setting for setting in SETTINGS if named(setting.name, options.setting)]
    found = {}
    for label in (label for label in blocks if named(label, options.only)):
        say(f"{label} …")
        found[label] = measure(blocks[label], settings, options.rounds, device)
    say("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
