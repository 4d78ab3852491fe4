"""The corpus of attention processors: its files, its table, and one processor of it on a small real model."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from corpus.expected import EXPECTED, Expected
from corpus.pictures import Call
from torch import nn

FOLDER = Path(__file__).parent

BY_NAME = {f"{entry.file}:{entry.cls}": entry for entry in EXPECTED}

#: What a run brings to ``mask`` at every site: from the shape (batch, heads, queries, keys) of its scores.
Mask = Callable[[tuple[int, int, int, int]], torch.Tensor]


@dataclass(frozen=True)
class Source:
    """A class in its file, ``written`` by its author or ``mended``."""

    entry: Expected
    state: str = "written"

    @cached_property
    def text(self) -> str:
        return (FOLDER / self.state / f"{self.entry.file}.py").read_text()

    @cached_property
    def lines(self) -> range:
        """Lines of the class, counted from 1."""
        node = next(n for n in ast.parse(self.text).body if isinstance(n, ast.ClassDef) and n.name == self.entry.cls)
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return range(first, (node.end_lineno or first) + 1)

    @property
    def line(self) -> int:
        """The line with the text that the table names: in the class where it is there, else in its file."""
        lines = [n for n, text in enumerate(self.text.splitlines(), 1) if self.entry.line in text]
        return next((n for n in lines if n in self.lines), lines[0])


def unet() -> Any:
    """A small SD 1.5 whose weights are as large as trained ones, so that attention shows in the picture."""
    import models

    patcher = models.unet_patcher()
    torch.manual_seed(0)
    for name, weight in patcher.model.diffusion_model.named_parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=(4 if "to_q" in name or "to_k" in name else 1.2) * weight[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            nn.init.ones_(weight)
    return patcher


def half_unet() -> Any:
    """The same, computing in float16."""
    import comfy.supported_models
    import models

    return models._patcher(comfy.supported_models.SD15, {**models.UNET, "dtype": torch.float16}, 0)


def flux() -> Any:
    import models

    return models.flux_patcher()


MODELS: dict[str, Callable[[], Any]] = {"sd15": unet, "sd15 in float16": half_unet, "flux": flux}


def patch(patcher: Any, name: str, state: str = "written") -> tuple[Any, dict[str, Any]]:
    """A clone with a processor at all sites, by the node as a workflow has it, and the node's record."""
    import pytest
    from comfy_api.latest import io
    from onediff_pack.host import offered_processors
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention
    from onediff_pack.processors.sources import custom

    hidden = {"hidden_inputs": {io.Hidden.unique_id: "7", io.Hidden.extra_pnginfo: None}}
    with pytest.MonkeyPatch.context() as monkeypatch, torch.inference_mode():
        known = _CUSTOM.setdefault(state, custom.CustomProcessors(lambda: [FOLDER / state]))
        monkeypatch.setattr(offered_processors, "CUSTOM", known)
        node = OneDiffPatchAttention.PREPARE_CLASS_CLONE(hidden)
        output = node.execute(model=patcher, processor=f"custom/{name}", sites="all", blocks="")
    return output.args[0], json.loads(json.dumps(output.ui["onediff"][0]))


_CUSTOM: dict[str, Any] = {}


def worst(record: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The verdict of a record, and the findings that say so; what follows from another one is left out."""
    found = [finding for finding in record["check"]["findings"] if finding["rule"] != "processor-not-used"]
    for severity in ("error", "warning"):
        of_this = [finding for finding in found if finding["severity"] == severity]
        if of_this:
            return severity, of_this
    return "fine", []


def sample(patcher: Any, steps: int = 2, cfg: float = 4.0, size: tuple[int, int] = (8, 8)) -> torch.Tensor:
    """The latent that ComfyUI's own sampler ends with; with ``cfg`` 1 the batch is 1."""
    import comfy.sample

    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 4, *size, generator=generator)
    positive, negative = ([[torch.randn(1, 21, 48, generator=generator), {}]] for _ in range(2))
    with torch.inference_mode():
        return comfy.sample.sample(
            patcher, noise, steps, cfg, "euler", "simple", positive, negative, torch.zeros_like(noise),
            disable_pbar=True, seed=3,
        )  # fmt: skip


@contextmanager
def recorded(patcher: Any, mask: Mask | None = None) -> Iterator[list[tuple[Call, torch.Tensor]]]:
    """What comes into every attention module and what comes out, in the order of calls. ``mask`` gives each call one,
    as a node for regions would."""
    from onediff_pack.processors import find_sites

    calls: list[tuple[Call, torch.Tensor]] = []
    inside: list[nn.Module] = []

    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        inside.append(module)
        if mask is None or len(inside) > 1:
            return None
        x, context = args[0], kwargs.get("context")
        keys = (x if context is None else context).shape[1]
        return args, {**kwargs, "mask": mask((x.shape[0], module.heads, x.shape[1], keys))}  # type: ignore[arg-type]

    def after(module: nn.Module, args: tuple, kwargs: dict[str, Any], result: torch.Tensor) -> None:
        inside.pop()
        if not inside:  # not one that a stand-in calls
            assert kwargs.get("value") is None
            sigma = float(kwargs["transformer_options"]["sigmas"][0])
            calls.append((Call(module, args[0], kwargs.get("context"), kwargs.get("mask"), sigma), result))

    hooks = []
    for site in find_sites(patcher.model.diffusion_model):
        hooks.append(site.module.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(site.module.register_forward_hook(after, with_kwargs=True))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
