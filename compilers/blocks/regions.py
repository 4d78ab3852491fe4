"""The blocks of a model that are compiled as one piece each.

Found from the model's structure. A region is a block in a list of blocks (a child of ModuleList or Sequential) that
holds an attention site; besides, a repeated block without attention that holds much of the weight, such as a residual
block, and others of its class that stand in no list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ...patching.explicit_forward import needs_repair
from ...processors import Site

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)

#: A repeated block without attention is a region when all blocks of its class hold at least this part of the weight.
MIN_WEIGHT_SHARE = 0.02


@dataclass(frozen=True)
class Region:
    """A block that is compiled as one piece. ``path`` is relative to the diffusion model."""

    path: str
    module: nn.Module

    @property
    def signature(self) -> tuple:
        """Blocks with equal signatures can share a compiled graph: classes; name, shape and dtype of every tensor."""
        tensors = [*self.module.named_parameters(), *self.module.named_buffers()]
        classes = tuple(type(module) for module in self.module.modules())
        return (classes, tuple((n, tuple(t.shape), t.dtype) for n, t in tensors))


def find_regions(diffusion_model: nn.Module, sites: Iterable[Site], scope: str = "blocks") -> list[Region]:
    """The regions of a model, in its order.

    Args:
        sites: the attention sites of the model.
        scope: "blocks"; "attention" for the sites with projections alone; "model" for the blocks and the parts around
            them that have several layers, such as embeddings and the output, each as one piece.
    """
    modules = dict(diffusion_model.named_modules())
    if scope == "attention":
        return [Region(site.path, site.module) for site in sites if site.has_projections]
    paths = {_block_of(site.path, modules) for site in sites}
    paths |= _heavy_blocks(modules, paths)
    if scope == "model":
        paths |= _parts_around(modules, paths)
    return [Region(path, module) for path, module in modules.items() if path in paths]


def _is_block(path: str, modules: dict[str, nn.Module]) -> bool:
    parent = modules[path.rpartition(".")[0]]
    in_list = isinstance(parent, CONTAINERS) and not isinstance(modules[path], CONTAINERS)
    return in_list and _can_be_called(modules[path])


def _can_be_called(module: nn.Module) -> bool:
    """Whether a module has a forward of its own. A plain ``nn.Module`` only holds others, as at each depth of a VAE."""
    cls = type(module)
    return cls.forward is not nn.Module.forward or needs_repair(cls)


def _block_of(path: str, modules: dict[str, nn.Module]) -> str:
    """The nearest block that holds this path, or the path itself when it sits in no list of blocks."""
    candidate = path
    while candidate:
        if _is_block(candidate, modules):
            return candidate
        candidate = candidate.rpartition(".")[0]
    return path


def _heavy_blocks(modules: dict[str, nn.Module], taken: set[str]) -> set[str]:
    """Outermost repeated blocks beside the taken ones that hold much of the weight in at least two layers."""
    blocks: dict[str, nn.Module] = {}
    for path, module in modules.items():
        inside = any(path.startswith(f"{other}.") for other in (*taken, *blocks))
        around = any(other == path or other.startswith(f"{path}.") for other in taken)
        if path and not inside and not around and _is_block(path, modules) and _weighted_layers(module) >= 2:
            blocks[path] = module
    total = sum(p.numel() for p in modules[""].parameters()) or 1
    repeats = Counter(type(module) for module in blocks.values())
    weight: Counter[type] = Counter()
    for module in blocks.values():
        weight[type(module)] += sum(p.numel() for p in module.parameters())
    heavy = {cls for cls, number in repeats.items() if number > 1 and weight[cls] / total >= MIN_WEIGHT_SHARE}
    found = {path for path, module in blocks.items() if type(module) in heavy}
    return found | _alike(modules, heavy, {*taken, *found})


def _alike(modules: dict[str, nn.Module], classes: set[type], taken: set[str]) -> set[str]:
    """Modules of these classes that stand in no list, as those in the middle of a VAE do."""
    return {
        path
        for path, module in modules.items()
        if type(module) in classes and not any(f"{path}.".startswith(f"{other}.") for other in taken)
    }


def _parts_around(modules: dict[str, nn.Module], taken: set[str]) -> set[str]:
    """Outermost modules beside the taken ones that have a weight and several layers. One layer alone has nothing that
    could be fused."""
    parts: set[str] = set()
    for path, module in modules.items():
        inside = any(path.startswith(f"{other}.") for other in (*taken, *parts))
        around = any(other == path or other.startswith(f"{path}.") for other in taken)
        layers = sum(not list(layer.children()) for layer in module.modules())
        if path and _can_be_called(module) and not inside and not around and layers > 1 and _weighted_layers(module):
            parts.add(path)
    return parts


def _weighted_layers(module: nn.Module) -> int:
    """Layers below a module that hold a matrix or a kernel."""
    weights = (getattr(layer, "weight", None) for layer in module.modules())
    return sum(isinstance(weight, torch.Tensor) and weight.ndim >= 2 for weight in weights)
