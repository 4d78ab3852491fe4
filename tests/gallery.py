"""Wrong processors with what the check must say of each, the same ones mended, and right ones.

``# here`` marks the line that a finding must name; without it that is the line of ``forward``, or of the class where
there is none.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from onediff_pack.checks import Finding, check_processor
from onediff_pack.processors import Site
from torch import nn

Factory = Callable[[], nn.Module]

MARK = "# here"


@dataclass(frozen=True)
class Wrong:
    """A class that breaks rules. ``line`` is where its findings point."""

    cls: type[nn.Module]
    rules: tuple[str, ...]
    kind: str
    line: int
    file: str


WRONG: dict[str, Wrong] = {}
MENDED: dict[str, type[nn.Module]] = {}
RIGHT: dict[str, Factory] = {}


def wrong(*rules: str, kind: str = "cross") -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: the check must find exactly these rules broken, at a site of this kind."""

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        lines, first = inspect.getsourcelines(cls)
        marked = [number for number, line in enumerate(lines) if line.rstrip().endswith(MARK)]
        own = cls.__dict__.get("forward")
        if marked:
            line = first + marked[0]
        elif own is not None and rules and not rules[0].startswith(("no-forward", "forward-only", "call-instead")):
            line = own.__code__.co_firstlineno
        else:
            line = first
        assert cls.__name__ not in WRONG
        WRONG[cls.__name__] = Wrong(cls, rules, kind, line, Path(inspect.getsourcefile(cls) or "").name)
        return cls

    return add


def mended(cls: type[nn.Module]) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: what ``cls`` is after the remedies of its findings."""

    def add(better: type[nn.Module]) -> type[nn.Module]:
        MENDED[cls.__name__] = better
        return better

    return add


def right(factory: Factory) -> Factory:
    """Decorator of a class or function that makes a processor on which there is nothing to find."""
    name = getattr(factory, "__name__", repr(factory))
    assert name not in RIGHT
    RIGHT[name] = factory
    return factory


def load() -> None:
    """Reads the files of the gallery, each once."""
    for file in sorted((Path(__file__).parent / "checks" / "gallery").glob("*.py")):
        name = f"gallery_{file.stem}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None and spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])


def site(kind: str = "cross", width: int = 32, context: int = 24) -> Site:
    """A site of ComfyUI's own attention module: 2 heads of 16 channels. Of kind "kernel" is a block that hands q, k
    and v to the attention function itself, as Flux's do."""
    from comfy.ldm.modules.attention import CrossAttention

    if kind == "kernel":
        block = nn.Module()
        block.num_heads, block.head_dim = 2, 16  # type: ignore[assignment]
        return Site("blocks.0.attn", block, "self", False)
    torch.manual_seed(0)
    attention = CrossAttention(width, context if kind == "cross" else None, heads=2, dim_head=16)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.2)
    return Site(f"blocks.0.attn{1 + (kind == 'cross')}", attention.eval().requires_grad_(False), kind, True)  # type: ignore[arg-type]


def check(processor: nn.Module, kind: str = "cross") -> tuple[Finding, ...]:
    """What the check says of one processor."""
    return check_processor(processor, site(kind))
